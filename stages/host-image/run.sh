#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Partitions at multiples of 4 MiB (what cards and sticks erase at once), as large as their content.
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh

boot=/in/boot/boot.fat
system=/in/system/root.ext4
image=/out/image.img
step=4

# steps FILE: its size in MiB, rounded up to whole steps
steps() {
	size=$(stat -c %s "$1")
	unit=$((step * 1048576))
	count=$(((size + unit - 1) / unit))
	echo $((count * step))
}

need_files "$boot" "$system"
fsck.vfat -n "$boot" || refuse "input boot: boot.fat is no FAT file system, or a damaged one"
e2fsck -fn "$system" || refuse "input system: root.ext4 is no ext4 file system, or a damaged one"

boot_end=$((step + $(steps "$boot")))
root_end=$((boot_end + $(steps "$system")))
truncate -s "${root_end}M" "$image"
parted --script --align=optimal "$image" mklabel msdos \
	mkpart primary fat32 "${step}MiB" "${boot_end}MiB" \
	mkpart primary ext4 "${boot_end}MiB" 100% \
	set 1 "$TOWER_BOOT_FLAG" on
[ "$TOWER_BOOT_FLAG" = esp ] || parted --script "$image" set 1 boot on

# put FILE POSITION: write a file at a byte of the image, leaving holes where it has zeros
put() {
	dd if="$1" of="$image" bs=1M oflag=seek_bytes seek="$2" conv=notrunc,sparse status=none
}
put "$boot" $((step * 1048576))
put "$system" $((boot_end * 1048576))

if [ -s /in/boot/mbr.bin ]; then
	[ "$(stat -c %s /in/boot/core.bin)" -le $((step * 1048576 - 512)) ] ||
		refuse "input boot: core.bin is larger than the room before the first partition"
	put /in/boot/mbr.bin 0
	put /in/boot/core.bin 512
fi

# parted chose the disk's number by chance: ours comes from the image's name.
python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(sys.argv[1])[:4])' "$(digest disk)" >/work/number
put /work/number 440
sfdisk --verify "$image"
