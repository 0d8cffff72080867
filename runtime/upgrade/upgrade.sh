#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The host's side of `tower upgrade`, run there by root: a new image is gathered in pieces, and then written onto the boot
# device that the host started from. `tower` sends this file along, so that an older host is upgraded as a newer one is.
# With the programs of busybox alone. Pieces are files named by their SHA-256; sizes are in units of 64 KiB.
set -eu
umask 077
# Whoever logs in by ssh may have another PATH.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
export PATH LC_ALL

folder=/var/lib/tower/upgrade
unit=65536

fail() {
	echo "$*" >&2
	exit 1
}

sum_of() {
	sha256sum | cut -d ' ' -f 1
}

# --- which device, and may it be written ----------------------------------------------------------------------

# boot_device: the disk that holds the boot partition
boot_device() {
	part=$(findfs LABEL=TOWER-BOOT 2>/dev/null) || fail "no boot partition TOWER-BOOT in this host: was its boot device taken out?"
	place=$(readlink -f "/sys/class/block/${part##*/}")
	[ -e "$place/partition" ] || fail "$part: is not a partition"
	place=${place%/*}
	echo "/dev/${place##*/}"
}

# number_of DEVICE: its number, as the kernel writes it; whatever it is called
number_of() {
	echo "$((0x$(stat -L -c %t "$1"))):$((0x$(stat -L -c %T "$1")))"
}

# place_of DEVICE: where the kernel describes it
place_of() {
	readlink -f "/sys/dev/block/$(number_of "$1")"
}

size_of() {
	if [ -b "$1" ]; then
		blocks=$(cat "$(place_of "$1")/size")
		echo $((blocks * 512))
	else
		stat -L -c %s "$1"
	fi
}

# identity DEVICE: what tells it from any other until this host is started anew; the kernel counts the disks that it sees
identity() {
	if [ -b "$1" ]; then
		which=$(number_of "$1")-$(cat "$(place_of "$1")/diskseq" 2>/dev/null || true)
	else
		which=$(stat -L -c %d-%i "$1")
	fi
	echo "$(cat /proc/sys/kernel/random/boot_id)/$which/$(size_of "$1")"
}

# users DEVICE: who uses it or a part of it: where it is mounted, devices made of it, swap
users() {
	[ -b "$1" ] || return 0
	place=$(place_of "$1")
	for part in "$place" "$place/${place##*/}"*; do
		[ -e "$part/dev" ] || continue
		for holder in "$part"/holders/*; do
			[ ! -e "$holder" ] || echo "${holder##*/}"
		done
		number=$(cat "$part/dev")
		while read -r _ _ device _ point _; do
			[ "$device" != "$number" ] || echo "$point"
		done </proc/self/mountinfo
		while read -r swap _; do
			[ ! -b "$swap" ] || [ "$(number_of "$swap")" != "$number" ] || echo swap
		done </proc/swaps
	done
}

# check_device NAME [PATH]: may it be written? PATH is where it is open, if it is
check_device() {
	at=${2:-$1}
	[ -b "$at" ] || [ -f "$at" ] || fail "$1: no such device in this host"
	if [ -b "$at" ]; then
		place=$(place_of "$at")
		[ ! -e "$place/partition" ] || fail "$1: is a partition, and no disk"
		if [ -e "$place/dm" ] || [ -e "$place/md" ]; then fail "$1: is made of other disks"; fi
		sector=$(cat "$place/queue/logical_block_size")
		[ "$sector" = 512 ] || fail "$1: has sectors of $sector bytes; images are made for 512, and no host could start from it"
		[ "$(cat "$place/ro")" = 0 ] || fail "$1: is write-protected"
	fi
	found=$(users "$at" | sort -u)
	! echo "$found" | grep -qx / || fail "$1: this host runs from its boot device, which cannot be written under it"
	# Nothing needs the boot partition while the host runs: it is unmounted before it is written.
	found=$(echo "$found" | grep -vx /boot | tr '\n' ' ')
	[ -z "${found# }" ] || fail "$1: is in use: $found"
}

# receipt DEVICE: the receipt on its boot partition, as base64; empty if it cannot be read
receipt() {
	[ "$(boot_device 2>/dev/null)" = "$1" ] || return 0
	part=$(findfs LABEL=TOWER-BOOT)
	point=$(mktemp -d /run/tower-boot.XXXXXX)
	if mount -t vfat -o ro,nodev,nosuid,noexec,umask=0077 "$part" "$point" 2>/dev/null; then
		head -c 65536 "$point/tower-receipt.json" 2>/dev/null | base64 | tr -d '\n' || true
		umount "$point"
	fi
	rmdir "$point"
}

look() {
	device=${1:-$(boot_device)}
	check_device "$device"
	# By the name that the kernel gives it: of links there may be many.
	if [ -b "$device" ]; then
		device=$(place_of "$device")
		device=/dev/${device##*/}
	fi
	echo "device=$device"
	echo "identity=$(identity "$device")"
	echo "size=$(size_of "$device")"
	echo "free=$(df -Pk /var/lib | awk 'NR == 2 { print $4 }')"
	echo "table=$(dd if="$device" bs=512 count=1 2>/dev/null | base64 | tr -d '\n')"
	echo "receipt=$(receipt "$device")"
	echo "state=$(state)"
}

# --- gathering ------------------------------------------------------------------------------------------------

# keep: from stdin, for each piece a line `SHA-256 UNITS` and its bytes; each is kept once its digest holds, and said so
keep() {
	cd "$folder"
	while read -r digest units; do
		case $digest in '' | *[!0-9a-f]*) fail "not a digest: $digest" ;; esac
		dd bs=$unit count="$units" iflag=fullblock of=.piece 2>.said || fail "no room for the new image: $(tail -n 1 .said)"
		[ "$(sum_of <.piece)" = "$digest" ] || fail "a piece came damaged or incomplete"
		mv .piece "$digest"
		echo "$digest"
	done
}

have() {
	[ ! -d "$folder" ] || ls "$folder"
}

# --- writing --------------------------------------------------------------------------------------------------

say() {
	echo "$*" >"$folder/.state"
	mv "$folder/.state" "$folder/state"
}

give_up() {
	say "failed $*"
	exit 1
}

# started NUMBER: field 22 of /proc/NUMBER/stat, when a process started. One that has ended keeps its number until init takes
# note of it, which busybox' does once a second.
started() {
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	# shellcheck disable=SC2086 # fields
	set -- ${stat##*) }
	[ "$1" != Z ] || return 1
	echo "${20}"
}

# process NUMBER: what tells it from another process that has, or had before a new start of the host, the same number
process() {
	echo "$1 $(started "$1" || echo gone) $(cat /proc/sys/kernel/random/boot_id)"
}

# keep_process NUMBER: remember who writes; never half of it
keep_process() {
	process "$1" >"$folder/.pid.$$"
	mv "$folder/.pid.$$" "$folder/pid"
}

running() {
	[ -f "$folder/pid" ] || return 1
	read -r number _ <"$folder/pid"
	[ -d "/proc/$number" ] && [ "$(process "$number")" = "$(cat "$folder/pid")" ]
}

# state: nothing, checking, writing UNITS OF, stopped, failed WHY, done
state() {
	[ -f "$folder/state" ] || {
		echo nothing
		return
	}
	# First the process: one that ends after this has said how before.
	at_work=no
	! running || at_work=yes
	said=$(cat "$folder/state")
	case $at_work$said in
	yes* | nodone | nofailed*) echo "$said" ;;
	*) echo stopped ;;
	esac
}

# start DEVICE DIGEST IDENTITY: write the pieces as the plan with this digest says, onto the device that was looked at;
# goes on whatever becomes of who started it
start() {
	running && fail "the boot device is being written already"
	say checking
	setsid sh "$folder/upgrade.sh" write "$1" "$2" "$3" </dev/null >"$folder/log" 2>&1 &
	keep_process $!
}

# holds DEVICE PLACE UNITS DIGEST: does it have that there? A device is read past the cache.
holds() {
	direct=
	[ ! -b "$1" ] || direct=,direct
	[ "$(dd if="$1" bs=$unit skip="$2" count="$3" "iflag=fullblock$direct" 2>/dev/null | sum_of)" = "$4" ]
}

write() {
	trap '' HUP
	cd "$folder"
	keep_process $$
	[ "$(sum_of <plan)" = "$2" ] || give_up "the plan is not the one that was sent"
	total=0
	while read -r _ units digest; do
		[ "$(sum_of <"$digest")" = "$digest" ] || {
			rm -f "$digest"
			give_up "a piece did not stay what it was; go on with --resume"
		}
		total=$((total + units))
	done <plan
	# Disks are swapped while people wait: what is open is looked at, and all goes through that.
	[ -b "$1" ] || [ -f "$1" ] || give_up "$1: no such device in this host"
	(exec 3<>"$1") 2>/dev/null || give_up "$1: cannot be opened"
	exec 3<>"$1"
	disk=/proc/self/fd/3
	[ "$(identity $disk)" = "$3" ] || give_up "$1: is not the device that was there before, or was taken out meanwhile"
	said=$( (check_device "$1" $disk) 2>&1) || give_up "$said"
	! users $disk | grep -qx /boot || umount /boot || give_up "/boot is in use"
	number=0
	while read -r place units digest; do
		say "writing $number $total"
		number=$((number + units))
		holds $disk "$place" "$units" "$digest" && continue
		dd if="$digest" of=$disk bs=$unit seek="$place" conv=notrunc,fsync || give_up "$1: cannot be written"
		holds $disk "$place" "$units" "$digest" ||
			give_up "$1: what was read back at unit $place is not what was written: it is worn out, or smaller than it says"
	done <plan
	sync
	say 'done'
}

clean() {
	left=50
	while running; do
		# Who has said how it ended is about to end.
		case $(cat "$folder/state") in 'done' | failed*) ;; *) fail "the boot device is being written" ;; esac
		[ "$left" -gt 0 ] || fail "who wrote the boot device does not end"
		left=$((left - 1))
		sleep 0.1
	done
	rm -rf "$folder"
}

case ${1:-} in
look | keep | have | state | start | write | clean) "$@" ;;
*) fail "usage: look [DEVICE] | keep | have | start DEVICE DIGEST IDENTITY | state | clean" ;;
esac
