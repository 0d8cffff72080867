# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# One at a time: a lock of the kernel's on a file, which goes with the process that holds it, however it ends. Nobody but
# its owner can open the file, so nobody else can hold it; whose it is stands beside it, for everyone to read.
# A program that starts others, and must not leave them its lock, closes descriptor 9 for them: `command 9>&-`.

# started PID: field 22 of /proc/PID/stat, when a process started. With its number it names the process for good.
started() {
	lock_stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	# shellcheck disable=SC2086 # fields
	set -- ${lock_stat##*) }
	# One that has ended keeps its number until init takes note of it, which busybox' does once a second.
	[ "$1" != Z ] || return 1
	echo "${20}"
}

# lock_take FILE SECONDS: hold it until this process ends. 1: another one holds it still after so many seconds;
# 2: the file cannot be made.
lock_take() {
	(umask 077 && : >>"$1") 2>/dev/null || return 2
	exec 9>>"$1"
	lock_left=$2
	until flock -n 9; do
		[ "$lock_left" -gt 0 ] || return 1
		lock_left=$((lock_left - 1))
		sleep 1
	done
	# Only for readers: the lock itself is the kernel's.
	ln -sfn "$$ $(started $$)" "$1.owner" 2>/dev/null || :
}

# lock_held FILE: whether the process that took it last is there still. For those who may not open it.
lock_held() {
	lock_owner=$(readlink "$1.owner" 2>/dev/null) || return 1
	[ "$(started "${lock_owner%% *}" || :)" = "${lock_owner##* }" ]
}
