#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Called with the changed directories /usr/share/kernel/<flavor>.
set -eu

disable_trigger=
[ ! -r /etc/mkinitfs/mkinitfs.conf ] || disable_trigger=$(
	sed -n 's/^disable_trigger=//p' /etc/mkinitfs/mkinitfs.conf | tr -d "\"'"
)
case "$disable_trigger" in [Yy]*) exit 0 ;; esac

for dir; do
	[ -s "$dir/kernel.release" ] || continue
	release=$(cat "$dir/kernel.release")
	[ -f "/lib/modules/$release/modules.dep" ] || continue
	mkinitfs -o "/boot/initramfs-${dir##*/}" "$release"
done
