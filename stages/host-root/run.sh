#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A root of packages alone. Of another architecture than ours, their scripts cannot run here: they run at the device's
# first start, which needs the order in which apk installed; what the start itself needs (the links to busybox) is
# laid by hand.
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
need_packages world "$TOWER_WORLD"
[ -z "$TOWER_KERNEL" ] || need_packages kernel "$TOWER_KERNEL"
need_packages locked "$TOWER_LOCKED"
need_files "/in/repository/$TOWER_BRANCH" /in/keys

# The lock names each package and its version, so that apk has nothing left to choose.
root=/work/root
mkdir "$root"
if [ "$TOWER_ARCH" = "$(uname -m)" ]; then
	# mkinitfs's trigger would make an initramfs, which nothing takes: host-boot makes the device's. apk leaves a file that it
	# finds below /etc alone, and lays the package's beside it.
	settings=$root/etc/mkinitfs/mkinitfs.conf
	mkdir -p "${settings%/*}"
	echo disable_trigger=yes >"$settings"
	# shellcheck disable=SC2086 # lists of words
	tower_apk "$root" add --initdb $TOWER_LOCKED
	if [ -f "$settings.apk-new" ]; then
		mv "$settings.apk-new" "$settings"
	else
		rm "$settings"
		rmdir --ignore-fail-on-non-empty "${settings%/*}"
	fi
else
	# shellcheck disable=SC2086 # lists of words
	if ! tower_apk "$root" add --initdb --no-scripts $TOWER_LOCKED >/work/installed; then
		cat /work/installed
		exit 1
	fi
	cat /work/installed
	install -D -m 0600 /work/installed "$root/var/lib/tower/scripts/installed"
	cat "$root"/etc/busybox-paths.d/* | while read -r path; do
		link=$root/${path#/}
		[ -e "$link" ] || [ -L "$link" ] || ln -s /bin/busybox "$link"
	done
fi

# The world of the device is the recipe's: with the versions of the lock in it, nothing could be upgraded.
# shellcheck disable=SC2086 # lists of words
printf '%s\n' $TOWER_WORLD $TOWER_KERNEL | LC_ALL=C sort -u >"$root/etc/apk/world"
# shellcheck disable=SC2086 # list of words
check_locked "$root" $TOWER_LOCKED

# The channel's keys, of which one signs our own packages: the package alpine-keys has Alpine's alone.
mkdir -p "$root/etc/apk/keys"
cp /in/keys/*.pub "$root/etc/apk/keys/"
# Not those of this build: the stage host-system writes the device's.
: >"$root/etc/apk/repositories"
rm -rf "$root"/var/cache/apk/* "$root"/var/log/*
tar -C "$root" -cf /out/root.tar --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
	--sort=name --numeric-owner --mtime="@$TOWER_EPOCH" \
	--exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./run/*' --exclude='./tmp/*' .
