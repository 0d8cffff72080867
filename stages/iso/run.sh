#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
# shellcheck source=../lib/mkimage.sh
. /stagelib/mkimage.sh
need_packages packages "$TOWER_PACKAGES"
need_packages locked "$TOWER_LOCKED"
need_files "/in/repository/$TOWER_BRANCH" /in/keys /in/aports/scripts/mkimage.sh /in/packages /in/modloop/sections /in/apkovl /in/wheels /in/docs/docs

# mkimage.sh knows packages of the second format alone: these take its calls that concern those of the third.
mkdir -p /work/third
cat >/work/third/apk <<-EOF
	#!/bin/sh
	apk=$(command -v apk)
	. /stage/third.sh
	call_apk "\$@"
EOF
cat >/work/third/abuild-sign <<-EOF
	#!/bin/sh
	sign=$(command -v abuild-sign)
	. /stage/third.sh
	call_abuild_sign "\$@"
EOF
chmod +x /work/third/apk /work/third/abuild-sign
PATH=/work/third:$PATH
export PATH

mkdir -p "$MKIMAGE_WORK"
# Large files are linked: xorriso takes what links lead to. The image is made where it stays: /work is another file system.
cp -Rs /in/modloop/sections/. "$MKIMAGE_WORK/"
mkimage tower /out

# mkimage.sh lets apk choose by name. An index has the fields of a root's database, so that both are read in the same way.
mkdir -p /work/medium/lib/apk/db /work/ours/lib/apk/db
python3 /stage/medium_index.py text "$MKIMAGE_WORK"/apks_*/apks/"$TOWER_ARCH"/APKINDEX.tar.gz >/work/medium/lib/apk/db/installed
python3 /stage/medium_index.py text /in/packages/"$TOWER_ARCH"/APKINDEX.tar.gz >/work/ours/lib/apk/db/installed
installed_in /work/medium >/work/on-medium
# Our own packages are in no lock: those that the option `packages` names belong on the medium as well.
{
	# shellcheck disable=SC2086 # list of words
	printf '%s\n' $TOWER_LOCKED
	installed_in /work/ours | while IFS='=' read -r name version; do
		case " $TOWER_PACKAGES " in *" $name "*) echo "$name=$version" ;; esac
	done
} >/work/wanted-on-medium
for package in $(only_in /work/on-medium /work/wanted-on-medium); do
	refuse "option locked: the repository of the medium has $package, and the lock does not name it"
done
for package in $(only_in /work/wanted-on-medium /work/on-medium); do
	refuse "option locked: the repository of the medium lacks $package, although the lock names it"
done

# mkimage.sh must have used the section from the input; if it made another, the options of modloop and iso differ.
[ "$(find "$MKIMAGE_WORK" -maxdepth 1 -name 'kernel_*' | wc -l)" -eq "$(find /in/modloop/sections -mindepth 1 -maxdepth 1 | wc -l)" ] ||
	refuse "input modloop: its section is not the one of this image; do options of the stages modloop and iso differ?"

# mkimage.sh ignores failures of mtools; without this file the ISO would start by BIOS alone.
mdir -b -i "$(find "$MKIMAGE_WORK" -path '*/boot/grub/efi.img' | head -n 1)" ::/efi/boot/bootx64.efi >/dev/null

mv /out/tower.iso /out/image.iso
python3 /src/pipeline/images/blockmap.py /out/image.iso /out/image.bmap
python3 /stagelib/packages.py /work/medium/lib/apk/db/installed >/out/packages.json
