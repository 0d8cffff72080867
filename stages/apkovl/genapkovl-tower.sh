#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes <hostname>.apkovl.tar.gz in the current folder: what the live system has in /etc beyond its packages.
# Small on purpose: all of it is unpacked into memory at every start. Images, wheels and manual are files of
# the medium. The contract is that of mkimage.sh's genapkovl scripts. TOWER_WORLD has the packages of the live system,
# TOWER_INSTALLED those that only an installed system has. TOWER_IMAGES is a file with the checksums of the host images on the
# medium, TOWER_REPOSITORIES one with an installed system's servers of further packages.
set -eu

name=$1
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
cp -R "$(dirname "$0")/tree/." "$tree/"
mkdir -p "$tree/etc/apk" "$tree/etc/tower"
install -m 0644 "$TOWER_IMAGES" "$tree/etc/tower/images.sha256"
# shellcheck disable=SC2086 # list of words
printf '%s\n' $TOWER_WORLD | LC_ALL=C sort -u >"$tree/etc/apk/world"
# shellcheck disable=SC2086 # lists of words
printf '%s\n' $TOWER_WORLD $TOWER_INSTALLED | LC_ALL=C sort -u >"$tree/etc/tower/installed.world"
install -m 0644 "$TOWER_REPOSITORIES" "$tree/etc/tower/repositories"
tar -C "$tree" -c --format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" etc |
	gzip -9n >"$name.apkovl.tar.gz"
