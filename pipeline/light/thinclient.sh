#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The root of an installed thin client: the packages that the installer takes, the settings of the medium, and `tower`
# where an installed system has it. Runs in the builder, with the product's own apk.
set -eu

root=/work/root
mkdir -p "$root"
printf '%s\n' "/in/repository/$TOWER_BRANCH"/* /in/packages >/work/repositories
tar -xzf /in/apkovl/thinclient.apkovl.tar.gz -C "$root"
# What starts a machine and unlocks its disk has no part in one that is light.
grep -vxE 'cryptsetup|grub-efi|linux-lts|lvm2|mkinitfs|syslinux' "$root/etc/tower/installed.world" >/work/world
# shellcheck disable=SC2046 # a list of words
apk --root "$root" --arch x86_64 --keys-dir /in/keys --repositories-file /work/repositories --no-cache --no-network \
	add --initdb $(cat /work/world)
# The settings of the medium are laid over what the packages brought.
tar -xzf /in/apkovl/thinclient.apkovl.tar.gz -C "$root"
cp /work/world "$root/etc/apk/world"
# As the installer does.
cp /in/keys/*.pub "$root/etc/apk/keys/"
cp "$root/etc/tower/repositories" "$root/etc/apk/repositories"

mkdir -p "$root/usr/lib/tower"
for wheel in /in/wheels/*.whl; do
	python3 -m zipfile -e "$wheel" "$root/usr/lib/tower"
done
find "$root/usr/lib/tower" -type d -exec chmod 0755 {} + -o -exec chmod 0644 {} +
chroot "$root" python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/tower
rm -rf "$root"/var/cache/apk/*
tar -C "$root" -cf /out/root.tar --sort=name --numeric-owner --exclude='./dev/*' .
