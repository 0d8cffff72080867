#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# In the builder: what the encrypted machine is made of. /out gets the kernel, three initramfs (one that starts the
# machine, one that has the key within, one that fills its disk) and the two file systems.
set -eu

root=/work/root
small=/work/small
printf '%s\n' /in/repository/*/* >/work/repositories

in_root() {
	folder=$1
	shift
	apk --root "$folder" --arch x86_64 --keys-dir /in/keys --repositories-file /work/repositories --no-cache --no-network \
		add --quiet --initdb "$@"
}

initramfs() {
	name=$1
	shift
	mkinitfs -q -b "$root" -c "$root/etc/mkinitfs/mkinitfs.conf" -P "$root/etc/mkinitfs/features.d" \
		-i "$root/usr/share/mkinitfs/initramfs-init" -f "$root/usr/share/mkinitfs/fstab" -C zstd "$@" -o "/out/$name" "$release"
}

mkdir "$root" "$small"
in_root "$root" alpine-base cryptsetup linux-lts lvm2 mkinitfs
release=$(cat "$root/usr/share/kernel/lts/kernel.release")
cp "$root/boot/vmlinuz-lts" /out/
# LVM waits for udev, which an initramfs of mdev's does not have, unless it is told not to.
mkdir -p "$root/etc/lvm"
cp /src/lvm.conf "$root/etc/lvm/lvm.conf"
printf 'complevel_zstd="-1"\ncustom_files="/etc/lvm/lvm.conf"\n' >>"$root/etc/mkinitfs/mkinitfs.conf"
initramfs starter -F "base cryptsetup ext4 lvm virtio"
initramfs maker -F "base cryptsetup ext4 lvm virtio" -i /src/fill.sh
cp /src/key "$root/crypto_keyfile.bin"
initramfs keyed -F "base cryptkey cryptsetup ext4 lvm virtio"

in_root "$small" alpine-base
sed -i 's/^root:[^:]*:/root::/' "$small/etc/shadow"
echo '/dev/tower/home /home ext4 defaults 0 0' >"$small/etc/fstab"
mkdir -p "$small/etc/runlevels/boot"
ln -s /etc/init.d/localmount "$small/etc/runlevels/boot/localmount"
echo 'ttyS0::respawn:/sbin/getty -L 0 ttyS0 vt100' >>"$small/etc/inittab"
mke2fs -q -t ext4 -b 4096 -d "$small" /out/root.ext4 $(($(du -sm "$small" | cut -f 1) * 5 / 4 + 16))M
mkdir /work/home
echo home >/work/home/is-home
mke2fs -q -t ext4 -b 4096 -d /work/home /out/home.ext4 8M
