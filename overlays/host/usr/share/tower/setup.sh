# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# What the programs of a host's first start share: they say what they do on the console, in the system's log and in a log of
# their own, and write files as a whole. Sourced; $SETUP_LOG is the log of their own.

: "${SETUP_STATE:=/var/lib/tower/setup}" "${SETUP_LOG:=/var/log/tower-setup.log}" "${SETUP_BOOT:=/boot}" \
	"${SETUP_PROGRESS:=/run/tower-progress}" "${SETUP_SYS:=/sys}"
# `most` is how many bytes a file from `tower provision` has at most; who ends with an error looks at `doing` and `told`.
# shellcheck disable=SC2034 # for those who source it
readonly boot="$SETUP_BOOT" most=16384
doing='' told='' boot_at='' out=''

say() {
	# shellcheck disable=SC2034 # see above
	doing=$1
	if [ "$SETUP_LOG" != - ]; then
		logger -t tower-setup "$1" 2>/dev/null || :
		read -r up _ </proc/uptime
		# For a thin client that asks for the progress, if that is possible yet.
		[ ! -f "$SETUP_PROGRESS/steps" ] || printf '%s %s\n' "$up" "$1" >>"$SETUP_PROGRESS/steps"
		printf '%s %s\n' "$up" "$1" >>"$SETUP_LOG"
	fi
	printf 'tower-setup: %s\n' "$1"
}

fail() {
	say "failed: $1" >/dev/null || :
	# shellcheck disable=SC2034 # see above
	told=yes
	printf 'tower-setup: %s\n' "$1" >&2
	exit 1
}

# fail_at STEP: for the end of a program that an error ended, which has said what it was
fail_at() {
	say "failed: $1" >/dev/null || :
	printf 'tower-setup: failed at: %s\n' "$1" >&2
}

# of FILE: print the content of a file of the kernel's, or nothing
of() {
	cat "$1" 2>/dev/null || :
}

# number FILE: the same of a file with a number; 0 where there is none
number() {
	found=$(of "$1")
	echo "${found:-0}"
}

bytes() {
	echo $(($(number "$SETUP_SYS/block/$1/size") * 512))
}

# describe NAME...: disks, for whoever has them in their hand
describe() {
	shown=''
	for one; do
		at=$SETUP_SYS/block/$one
		model=$(of "$at/device/model" | sed 's/ *$//' | tr -cd ' -~') serial=$(of "$at/device/serial" | tr -cd '!-~')
		[ -n "$serial" ] || serial=$(of "$at/serial" | tr -cd '!-~')
		shown="$shown${shown:+, }$one ($model${model:+, }${serial:+serial number $serial, }$(($(bytes "$one") / 1000000)) MB)"
	done
	echo "$shown"
}

# watch_boot NAME: the boot device is this disk, for `boot_is_out`. Sets `out` to what is said then.
watch_boot() {
	[ -n "$1" ] || return 0
	boot_at=$SETUP_SYS/block/$1
	# shellcheck disable=SC2034 # for those who source it
	out="the boot device, $(describe "$1"), was taken out: put it in, and switch this host off and on"
}

# boot_is_out: by the shell alone: a host that runs from its boot device can start no program without it. While a file system
# of it is mounted, no other disk gets its name.
boot_is_out() {
	[ -n "$boot_at" ] && [ ! -e "$boot_at" ]
}

# settle: after an error, gives the kernel the time to notice that the boot device is out. `sleep` could not be started then:
# nobody ever writes to the FIFO that the callers have made for this, and the shell alone waits for it.
settle() {
	# shellcheck disable=SC2154,SC3045 # `work` is the callers'; ash has the option
	[ -z "$boot_at" ] || boot_is_out || IFS= read -r -t 3 _ <>"$work/never" || :
}

# clean TEXT: what may be shown of foreign text
clean() {
	printf %s "$1" | tr -cd 'A-Za-z0-9._-' | head -c 64
}

# write FILE [MODE], from input: as a whole
write() {
	mkdir -p "${1%/*}"
	(umask 077 && cat >"$1.new")
	chmod "${2:-0644}" "$1.new"
	mv -f "$1.new" "$1"
}

# overwrite FILE: with zeros, in its place, before its name goes. What a flash card keeps of it beside, nobody can reach from here.
overwrite() {
	[ -e "$1" ] || return 0
	if [ -s "$1" ]; then dd if=/dev/zero of="$1" bs="$(wc -c <"$1")" count=1 conv=notrunc,fsync 2>/dev/null; fi
	sync
	rm -f "$1"
}

# remove_secrets: of what `tower provision` laid on the boot partition
remove_secrets() {
	for file in tower.env ssh_host_ed25519_key ssh_host_ed25519_key.pub crypto_keyfile.bin; do
		overwrite "$boot/$file"
	done
	# On a device that was taken out, no file is found either: something is written, and the write must succeed.
	echo >"$boot/tower.new"
	sync -f "$boot"
	rm -f "$boot/tower.new"
	sync
}
