#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs in the mini root: its apk installs the builder's world into a new root, from the locked packages alone.
set -eu

root=/work/root
mkdir -p "$root"
for place in /in/repository/*; do
	# apk takes a repository for one of the second format unless it is told.
	kind=
	[ ! -f "$place/$TOWER_ARCH/Packages.adb" ] || kind='v3 '
	echo "$kind$place"
done >/work/repositories
# shellcheck disable=SC2086 # a list of words
apk --root "$root" --arch "$TOWER_ARCH" --keys-dir /in/keys --repositories-file /work/repositories --no-cache --no-network \
	add --initdb $TOWER_WORLD
mkdir -p "$root/etc/apk/keys"
cp /in/keys/*.pub "$root/etc/apk/keys/"
: >"$root/etc/apk/repositories"
tar -C "$root" -cf /out/root.tar .
