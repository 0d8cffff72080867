# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# A lock that one process holds at a time: the kernel's lock on a file, which ends with the process, however it ends. Only
# its owner can open the file, so nobody else can hold the lock; a file beside it tells everyone who holds it.
# A program that must not pass its lock on to the programs that it starts closes descriptor 9 for them: `command 9>&-`.

# started PID: print when a process started (field 22 of /proc/PID/stat). Number and time together identify a process.
started() {
	lock_stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	# shellcheck disable=SC2086 # fields
	set -- ${lock_stat##*) }
	# A process that has ended keeps its number until init reaps it, which busybox's init does once a second.
	[ "$1" != Z ] || return 1
	echo "${20}"
}

# lock_take FILE SECONDS: take the lock and hold it until this process ends. Status 1: another process still holds it
# after SECONDS; status 2: the file cannot be made.
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

# lock_held FILE: tell whether the process that took the lock last still runs, for callers who may not open the file.
lock_held() {
	lock_owner=$(readlink "$1.owner" 2>/dev/null) || return 1
	[ "$(started "${lock_owner%% *}" || :)" = "${lock_owner##* }" ]
}
