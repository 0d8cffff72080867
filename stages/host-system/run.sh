#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The root as the device has it: with our own package, without /boot, which is the other partition.
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
need_packages world "$TOWER_WORLD"
need_files /in/root/root.tar /in/packages "/in/repository/$TOWER_BRANCH" /in/keys

root=/work/root
mkdir "$root"
tar -C "$root" -xpf /in/root/root.tar --exclude='./boot/*'
installed_in "$root" >/work/packages-before
if [ "$TOWER_ARCH" = "$(uname -m)" ]; then
	# shellcheck disable=SC2086 # lists of words
	tower_apk "$root" add $TOWER_WORLD
else
	# shellcheck disable=SC2086 # lists of words
	if ! tower_apk "$root" add --no-scripts $TOWER_WORLD >/work/installed; then
		cat /work/installed
		exit 1
	fi
	cat /work/installed
	mv "$root/var/lib/tower/scripts/installed" /work/installed-before
	PYTHONPATH=/src python3 /stage/pending.py "$root" "$TOWER_ARCH" /work/repositories /work/installed-before /work/installed
fi
# Only packages of our own are added here: the lock chose all others, and they are in the root.
installed_in "$root" >/work/packages-after
for package in $(only_in /work/packages-before /work/packages-after); do
	refuse "option world: $TOWER_WORLD would remove or replace $package of the root"
done
for package in $(only_in /work/packages-after /work/packages-before); do
	[ -f "/in/packages/$TOWER_ARCH/${package%%=*}-${package#*=}.apk" ] ||
		refuse "option world: $TOWER_WORLD would install $package, which is not in the root and not our own"
done
servers repositories "$TOWER_REPOSITORIES" >"$root/etc/apk/repositories"
rm -rf "$root"/var/cache/apk/* "$root"/var/log/*

# Nobody logs in before the host is provisioned: it has no user yet, and root never has a password.
sed -i 's/^root:[^:]*:/root:!:/' "$root/etc/shadow"

python3 /stagelib/packages.py "$root/lib/apk/db/installed" >/out/packages.json

same_times "$root"
# Room for the files (in whole blocks), for inodes and journal, and what was asked for.
used=$(du -s --block-size=1M "$root" | cut -f 1)
size=$((used + used / 16 + 40 + TOWER_FREE_MIB))
mke2fs -q -t ext4 -b 4096 -L tower-root -U "$(uuid root)" -E "hash_seed=$(uuid hash),lazy_itable_init=0,lazy_journal_init=0" \
	-d "$root" /out/root.ext4 "${size}M"
e2fsck -fn /out/root.ext4
