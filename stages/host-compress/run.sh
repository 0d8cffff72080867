#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh

need_files /in/image/image.img
case $TOWER_COMPRESS in
zstd | xz | none) ;;
*) refuse "option compress: $TOWER_COMPRESS is none of zstd, xz, none" ;;
esac
image=/in/image/image.img
python3 /src/pipeline/images/blockmap.py "$image" /out/image.bmap
# Both write the same bytes for any number of threads above one.
case $TOWER_COMPRESS in
zstd) zstd -q -T2 -6 -o /out/image.img.zst "$image" ;;
xz) xz -T2 -6 --block-size=24MiB --stdout "$image" >/out/image.img.xz ;;
none) cp --sparse=always "$image" /out/image.img ;;
esac
