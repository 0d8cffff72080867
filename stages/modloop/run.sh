#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Kernel, initramfs and modloop take most of the time of an ISO and change least. mkimage.sh keeps each
# section in a folder named after what went in; the stage iso lays this one where mkimage.sh looks for it.
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
# shellcheck source=../lib/mkimage.sh
. /stagelib/mkimage.sh
need_packages locked "$TOWER_LOCKED"
need_files "/in/repository/$TOWER_BRANCH" /in/keys /in/aports/scripts/mkimage.sh

mkimage towerkernel /work/images

# update-kernel lets apk choose by name.
installed_in /work/by-name >/work/chosen
[ -s /work/chosen ] || refuse "input aports: its mkimage.sh installed no package for the kernel"
# shellcheck disable=SC2086 # list of words
printf '%s\n' $TOWER_LOCKED >/work/locked
for package in $(only_in /work/chosen /work/locked); do
	refuse "option locked: the kernel's root has $package, and the lock does not name it"
done

mkdir /out/sections
cp -R "$MKIMAGE_WORK"/kernel_* /out/sections/
