#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
# shellcheck source=../lib/mkimage.sh
. /stagelib/mkimage.sh
need_packages packages "$TOWER_PACKAGES"
need_files "/in/medium/repository/$TOWER_BRANCH" /in/medium/sections /in/keys /in/aports/scripts/mkimage.sh /in/packages \
	/in/modloop/sections /in/apkovl /in/wheels /in/docs/docs

# The indexes alone, so that mkimage.sh cannot make another section of packages than those that are given.
# shellcheck disable=SC2034 # stage.sh reads it
tower_repository=/in/medium/repository
mkdir -p "$MKIMAGE_WORK"
# Large files are linked: xorriso takes what links lead to. The image is made where it stays: /work is another file system.
cp -Rs /in/modloop/sections/. /in/medium/sections/. "$MKIMAGE_WORK/"
mkimage tower /out || refuse "mkimage.sh failed. It can make no section of packages that inputs modloop and medium lack:" \
	"do options of those stages and of this one differ?"

mv /out/tower.iso /out/image.iso
python3 /src/pipeline/images/blockmap.py /out/image.iso /out/image.bmap &
map=$!

# mkimage.sh ignores failures of mtools; without this file the ISO would start by BIOS alone.
mdir -b -i "$(find "$MKIMAGE_WORK" -path '*/boot/grub/efi.img' | head -n 1)" ::/efi/boot/bootx64.efi >/dev/null
wait "$map"
