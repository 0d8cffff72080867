#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu

image=/in/image/image.img
python3 /src/pipeline/blockmap.py "$image" /out/image.bmap
# Both write the same bytes for any number of threads above one.
case $TOWER_COMPRESS in
zstd) zstd -q -T2 -6 -o /out/image.img.zst "$image" ;;
xz) xz -T2 -6 --block-size=24MiB --stdout "$image" >/out/image.img.xz ;;
none) cp --sparse=always "$image" /out/image.img ;;
*)
	echo "compress: $TOWER_COMPRESS is none of zstd, xz, none" >&2
	exit 1
	;;
esac
