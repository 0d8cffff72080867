#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first program of the machine that fills the disk: LUKS2 on /dev/vda1 with the key of /dev/vdb2, LVM in it, and the
# file systems of /dev/vdc and /dev/vdd copied into its volumes. The kernel under the tests may have no dm-crypt: this one does.
set -eu

export PATH=/usr/bin:/bin:/usr/sbin:/sbin
/bin/busybox mkdir -p /usr/bin /usr/sbin /sbin /proc /sys /dev /run
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /run/cryptsetup
# The kernel hands on what it does not know of its command line.
: "${luks_uuid:?}" "${key_offset:?}" "${key_size:?}"
trap 'echo "disk: failed"; poweroff -f' EXIT
find /sys/devices -name modalias -exec cat {} + 2>/dev/null | sort -u | xargs modprobe -a -b -q || true
modprobe -a virtio_blk dm-crypt dm-mod
tries=50
while [ ! -b /dev/vdd ] && [ "$tries" -gt 0 ]; do
	sleep 0.2
	tries=$((tries - 1))
done

# Few iterations: the key is 64 random bytes, and the test has no minute to spare.
cryptsetup luksFormat --batch-mode --type luks2 --uuid "$luks_uuid" --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
	--key-file /dev/vdb2 --keyfile-offset "$key_offset" --keyfile-size "$key_size" /dev/vda1
cryptsetup open --key-file /dev/vdb2 --keyfile-offset "$key_offset" --keyfile-size "$key_size" /dev/vda1 new
export LVM_SUPPRESS_FD_WARNINGS=1
quiet='activation{udev_sync=0 udev_rules=0 verify_udev_operations=0}'
lvm pvcreate --config "$quiet" /dev/mapper/new
lvm vgcreate --config "$quiet" tower /dev/mapper/new
lvm lvcreate --config "$quiet" -Wn -Zn -l 20%FREE -n home tower
lvm lvcreate --config "$quiet" -Wn -Zn -l 100%FREE -n root tower
lvm vgmknodes
dd if=/dev/vdc of=/dev/tower/root bs=1M
dd if=/dev/vdd of=/dev/tower/home bs=1M
lvm vgchange --config "$quiet" --activate n tower
cryptsetup close new
sync
trap - EXIT
echo "disk: filled"
poweroff -f
