#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The boot partition. It does not depend on the overlays: the root is found by its label.
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
# shellcheck source=rpi.sh
. /stage/rpi.sh
# shellcheck source=grub.sh
. /stage/grub.sh
need_packages packages "$TOWER_PACKAGES"
need_packages locked "$TOWER_LOCKED"
need_files /in/root/root.tar "/in/repository/$TOWER_BRANCH" /in/keys
case $TOWER_LOADER in
rpi | grub) ;;
*) refuse "option loader: $TOWER_LOADER is none of rpi, grub" ;;
esac

root=/work/root
boot=/work/boot
parts=/work/parts
mkdir "$root" "$boot" "$parts"
: >/out/mbr.bin
: >/out/core.bin

tar -C "$root" -xpf /in/root/root.tar
[ -f "$root/usr/share/kernel/$TOWER_FLAVOR/kernel.release" ] || refuse "option flavor: the root has no package linux-$TOWER_FLAVOR"
release=$(cat "$root/usr/share/kernel/$TOWER_FLAVOR/kernel.release")
cp "$root/boot/vmlinuz-$TOWER_FLAVOR" "$boot/"
# No udev runs in an initramfs, and LVM would wait for it unless it is told.
mkdir -p "$root/etc/lvm"
cp /stage/lvm.conf "$root/etc/lvm/lvm.conf"
echo 'custom_files="/etc/lvm/lvm.conf"' >>"$root/etc/mkinitfs/mkinitfs.conf"
# The USB of a Raspberry Pi 3, behind which its second disk is: mkinitfs knows it as built into the kernel, and the driver of
# SCSI disks, which those at USB are, from another feature.
if [ -f "$root/etc/mkinitfs/features.d/usb.modules" ]; then
	printf '%s\n' kernel/drivers/usb/dwc2 'kernel/drivers/usb/phy/phy-generic.ko*' 'kernel/drivers/scsi/sd_mod.ko*' \
		>>"$root/etc/mkinitfs/features.d/usb.modules"
fi
# mkinitfs moves /lib to /usr/lib, where a link that leaves /lib by "../", as that to the loader of the lab's libraries, leads
# elsewhere: in its place comes the file.
for link in "$root"/lib/*; do
	[ -L "$link" ] || continue
	target=$(readlink "$link")
	case $target in
	../*)
		[ -f "$root/${target#../}" ] || continue
		rm "$link"
		cp -p "$root/${target#../}" "$link"
		;;
	esac
done
steady_cpio
quick_initramfs
mkinitfs -q -b "$root" -c "$root/etc/mkinitfs/mkinitfs.conf" -P "$root/etc/mkinitfs/features.d" \
	-i "$root/usr/share/mkinitfs/initramfs-init" -f "$root/usr/share/mkinitfs/fstab" \
	-F "$TOWER_FEATURES" -o "$boot/initramfs-$TOWER_FLAVOR" "$release"

# shellcheck disable=SC2086 # list of words
packages=$(as_locked packages $TOWER_PACKAGES)
# shellcheck disable=SC2086 # list of words
take_apart "$parts" $packages
"boot_$TOWER_LOADER" "$root" "$parts" "$boot"

# FAT32 with room to spare; 36 MiB is the least that has enough clusters for it.
same_times "$boot"
used=$(du -s --apparent-size --block-size=1M "$boot" | cut -f 1)
size=$((used + TOWER_FREE_MIB))
[ "$size" -ge 36 ] || size=36
fat=/out/boot.fat
truncate -s "${size}M" "$fat"
mkfs.vfat --invariant -F 32 -n TOWER-BOOT -i "$(digest boot | cut -c 1-8)" "$fat" >/dev/null
cd "$boot"
find . -mindepth 1 -type d | LC_ALL=C sort | while read -r path; do
	mmd -i "$fat" "::${path#.}"
done
find . -type f | LC_ALL=C sort | while read -r path; do
	mcopy -m -i "$fat" "$path" "::${path#.}"
done
fsck.vfat -n "$fat"
