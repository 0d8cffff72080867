#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# start.sh ROOT DISK NAME CAPABILITIES [SERVICE...]: puts together the file systems of a light machine, and becomes its init.
# Runs in namespaces of its own (network, mounts, processes, name) with this machine's programs. ROOT is a read-only tree,
# DISK a folder that keeps what the light one changes, CAPABILITIES what setpriv takes from its root. SERVICES are started
# beside those of the runlevels; a `-` is a machine without any. Says `ready`, waits for a line, and starts.
set -eu

lower=$1 disk=$2 name=$3 capabilities=$4
shift 4
root=/mnt/machine
mount -t tmpfs -o mode=0755 machine "$root"
work=$root/made root=$root/root
mkdir "$work" "$root"
mkdir -p "$disk/upper" "$disk/work" "$disk/boot"
mount -t overlay -o "lowerdir=$lower,upperdir=$disk/upper,workdir=$disk/work" "$name" "$root"
# Its boot device is in it, and mounted already: there is no device to mount. The thin client has none.
[ ! -d "$root/boot" ] || mount --bind "$disk/boot" "$root/boot"

mount -t tmpfs -o mode=0755,nosuid,nodev run "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"

# read_only FILE: lay a file of /proc over itself
read_only() {
	if [ -e "$1" ]; then
		mount --bind "$1" "$1"
		mount -o remount,bind,ro "$1"
	fi
}

# The kernel is this machine's, too: of its settings only those of the network belong to the light one.
read_only "$root/proc/sys"
read_only "$root/proc/sysrq-trigger"
mkdir "$work/proc"
mount -t proc proc "$work/proc"
mount --bind "$work/proc/sys/net" "$root/proc/sys/net"
umount "$work/proc"
# Each start has a name, by which it is told from the one before.
cat /proc/sys/kernel/random/uuid >"$work/boot_id"
mount --bind "$work/boot_id" "$root/proc/sys/kernel/random/boot_id"

mount -t tmpfs -o mode=0755,nosuid dev "$root/dev"
while read -r file major minor; do
	mknod -m 0666 "$root/dev/$file" c "$major" "$minor"
done <<-'END'
	full 1 7
	null 1 3
	random 1 8
	tty 5 0
	urandom 1 9
	zero 1 5
END
mkdir -m 1777 "$root/dev/shm"
mkdir "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5,nosuid,noexec devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"

# The root's own init, with its runlevels but without logins on consoles, which are not there.
if [ "$*" = - ]; then
	:
else
	echo "::sysinit:/sbin/openrc sysinit"
	echo "::sysinit:/sbin/openrc boot"
	for service; do
		echo "::wait:/sbin/rc-service $service start"
	done
	echo "::wait:/sbin/openrc default"
	echo "::shutdown:/sbin/openrc shutdown"
fi >"$work/inittab"
echo "::once:/bin/touch /run/light-started" >>"$work/inittab"
mount --bind "$work/inittab" "$root/etc/inittab"

hostname "$name"
# shellcheck disable=SC2016 # for the shells that follow: ours before its root changes, then the machine's
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=lxc setpriv --bounding-set="$capabilities" \
	sh -ec 'cd "$1"; pivot_root . mnt; exec /bin/sh -ec "$2"' sh "$root" '
		umount -l /mnt
		ip link set lo up
		echo ready
		read -r _
		exec /sbin/init <>/dev/null >/run/light-console 2>&1
	'
