#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What the medium has of the channel's repository changes with the lock, and not with our own files. As in modloop, the stage
# iso lays these sections where mkimage.sh looks for them.
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
# shellcheck source=../lib/mkimage.sh
. /stagelib/mkimage.sh
need_packages packages "$TOWER_PACKAGES"
need_packages locked "$TOWER_LOCKED"
need_files "/in/repository/$TOWER_BRANCH" /in/keys /in/aports/scripts/mkimage.sh /in/packages

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

mkimage towerpackages /work/images

# mkimage.sh lets apk choose by name. An index has the fields of a root's database, so that both are read in the same way.
mkdir -p /work/medium/lib/apk/db /work/ours/lib/apk/db
python3 /stage/medium_index.py text \
	"$MKIMAGE_WORK"/apks_*/apks/"$TOWER_ARCH"/APKINDEX.tar.gz /work/medium/lib/apk/db/installed \
	/in/packages/"$TOWER_ARCH"/APKINDEX.tar.gz /work/ours/lib/apk/db/installed
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
python3 /stagelib/packages.py /work/medium/lib/apk/db/installed >/out/packages.json

mkdir /out/sections
cp -R "$MKIMAGE_WORK"/apks_* /out/sections/
for section in "$MKIMAGE_WORK"/syslinux_*; do
	case $section in *_cfg_*) ;; *) cp -R "$section" /out/sections/ ;; esac
done

# mkimage.sh asks again what each section would be made of; the indexes are enough to answer.
cd /in/repository
find "$TOWER_BRANCH" -name APKINDEX.tar.gz -o -name Packages.adb | while read -r index; do
	mkdir -p "/out/repository/${index%/*}"
	cp "$index" "/out/repository/$index"
done
