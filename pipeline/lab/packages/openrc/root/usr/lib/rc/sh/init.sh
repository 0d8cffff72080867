#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Run by openrc before the first service of sysinit: /proc and /run, where the state of the services is.
# In place of OpenRC's own, whose test of /proc takes busybox' built-in commands for a broken /proc.

: "${RC_LIBEXECDIR:=/usr/lib/rc}"
: "${RC_SVCDIR:=/run/openrc}"
# shellcheck source=/dev/null
. "$RC_LIBEXECDIR/sh/functions.sh"

if [ ! -r /proc/mounts ]; then
	ebegin "Mounting /proc"
	mount -n -t proc -o noexec,nosuid,nodev proc /proc
	eend $?
fi

if ! mountinfo -q /run; then
	ebegin "Mounting /run"
	fstabinfo --mount /run || mount -n -t tmpfs -o mode=0755,nosuid,nodev,size=20% tmpfs /run
	eend $? || exit 1
fi

checkpath -q -d "$RC_SVCDIR"
checkpath -q -d -m 0775 -o root:uucp /run/lock

# The tree of services as it was kept at the last stop (see the service savecache)
if [ -e "$RC_LIBEXECDIR/cache/softlevel" ]; then
	cp -p "$RC_LIBEXECDIR"/cache/* "$RC_SVCDIR/" 2> /dev/null
fi
echo sysinit > "$RC_SVCDIR/softlevel"
exit 0
