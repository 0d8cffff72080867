#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
# shellcheck source=../lib/mkimage.sh
. /stagelib/mkimage.sh
need_packages packages "$TOWER_PACKAGES"
need_files "/in/repository/$TOWER_BRANCH" /in/keys /in/aports/scripts/mkimage.sh /in/packages /in/modloop/sections /in/apkovl /in/wheels /in/docs/docs

mkdir -p "$MKIMAGE_WORK"
cp -R /in/modloop/sections/. "$MKIMAGE_WORK/"
mkimage tower /work/images
# The section must be the one that was laid there: another would mean that modloop and iso differ in options.
[ "$(find "$MKIMAGE_WORK" -maxdepth 1 -name 'kernel_*' | wc -l)" -eq "$(find /in/modloop/sections -mindepth 1 -maxdepth 1 | wc -l)" ] ||
	refuse "input modloop: its section is not the one of this image; do options of the stages modloop and iso differ?"

# mkimage.sh goes on where one of mtools fails, and the ISO would start by BIOS alone.
mdir -b -i "$(find "$MKIMAGE_WORK" -path '*/boot/grub/efi.img' | head -n 1)" ::/efi/boot/bootx64.efi >/dev/null

mv /work/images/tower.iso /out/image.iso
python3 /src/pipeline/images/blockmap.py /out/image.iso /out/image.bmap
tar -xzOf "$MKIMAGE_WORK"/apks_*/apks/"$TOWER_ARCH"/APKINDEX.tar.gz APKINDEX >/work/APKINDEX
python3 /stagelib/packages.py /work/APKINDEX >/out/packages.json
