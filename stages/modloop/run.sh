#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Kernel, initramfs and modloop take most of the time of an ISO and change least. mkimage.sh keeps each
# section in a folder named after what went in; the stage iso lays this one where mkimage.sh looks for it.
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
# shellcheck source=../lib/mkimage.sh
. /stagelib/mkimage.sh
need_files "/in/repository/$TOWER_BRANCH" /in/keys /in/aports/scripts/mkimage.sh

mkimage towerkernel /work/images
mkdir /out/sections
cp -R "$MKIMAGE_WORK"/kernel_* /out/sections/
