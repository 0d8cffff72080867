#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Applications with a display of their own. `tower` sends this script along with each use: nothing of it is installed on a host.
#
#   start ID WIDTHxHEIGHT[@SCALE] GRACE SOUND PROGRAM [ARGUMENT...]   SOUND is the port of a sound server, or 0; the cookie for that (256
#                bytes) and the key of the display come on stdin; prints the key
#   wait ID      until the application has ended; prints its status and the end of what it said
#                (this and `connect` first wait for a line on stdin: `tower` prepares them while `start` still works)
#   attach ID    prints the port of its sound server, a line, then the cookie and the key
#   connect ID pictures|display   to its VNC server or its X server, by stdin and stdout
#   stop ID      end it: politely, and then not
#   list         one line each: ID, seconds since it was started, program
#   shows PATTERN   whether a program, as an extended regular expression has it, has an entry among graphical applications
#
# Each has a folder that only its user may enter: the X server's key, the cookie for sound, the socket of its VNC server, the pid of the shell that
# looks after both. That shell's command line holds the ID, so that a pid of another time is recognised.
set -eu
umask 077
windows=${HOME:?}/.cache/tower/windows
no_display=91 no_program=92 no_server=93 no_window=94

alive() {
	{ read -r pid <"$windows/$1/pid"; } 2>/dev/null || return 1
	case $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) in
	*" start $1 "*) ;;
	*) return 1 ;;
	esac
}

# holds FILE SOCKET: whether the process that wrote its pid into the file still has a connection to the socket; sets `pid`.
holds() {
	{ read -r pid <"$1"; } 2>/dev/null || return 1
	tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$2"
}

# What is left of an end that nobody asked for any more, or of a power failure.
sweep() {
	for place in "$windows"/*/; do
		one=${place%/} one=${one##*/}
		[ -d "$place" ] || continue
		alive "$one" || find "$windows/$one" -prune -mmin +60 -exec rm -rf {} +
	done
}

# The two kinds of servers. `begin` starts the X server: it sets `server`, and the server writes its display into the FIFO `number`. `show`
# makes `rfb`, the socket of a VNC server that only this user reaches, and sees to it that all ends when nobody has looked for the
# grace time.

begin_tigervnc() {
	Xvnc -displayfd 3 -auth "$PWD/key" -geometry "$size" -dpi $((96 * scale)) -depth 24 -desktop "$id" -noreset -nolisten tcp \
		-rfbport -1 -rfbunixpath "$PWD/rfb" -rfbunixmode 384 -SecurityTypes None -MaxDisconnectionTime "$grace" \
		-AcceptCutText=0 -SendCutText=0 -SendPrimary=0 -SetPrimary=0 3>number 7>&- 9>&- >server-said 2>&1 &
	server=$!
}

show_tigervnc() { :; }

begin_x11vnc() {
	# No display of it gets larger than it began.
	case $size in
	*[!0-9x]* | x* | *x) size=none ;;
	*x*) size=2560x1600 ;;
	esac
	Xvfb -displayfd 3 -auth "$PWD/key" -screen 0 "${size}x24" -dpi $((96 * scale)) -noreset -nolisten tcp 3>number 7>&- 9>&- >server-said 2>&1 &
	server=$!
}

show_x11vnc() {
	(
		exec 7>&- 9>&-
		while kill -0 "$server" 2>/dev/null; do
			rm -f rfb
			# Without both ports it would listen to the network, at any port that is free. Memory that it shares with the X server
			# would stay in the kernel for ever if it was killed. With its naps it would
			# sleep 250 ms before each message of a new viewer, to save half a percent of a processor.
			x11vnc -display ":$display" -auth "$PWD/key" -norc -nevershared -unixsock "$PWD/rfb" -rfbport 0 -rfbportv6 -1 -nopw -forever \
				-nolookup -nosel -noclipboard -nobell -noxrecord -noshm -xkb -xrandr newfbsize -nonap -wait 8 -defer 4 \
				-quiet >server-said 2>&1 &
			refuse_ports $! &
			wait $! || :
			wait || :
			sleep 0.2
		done
	) &
	(
		exec 7>&- 9>&-
		watch_over
	) &
}

# Kills a VNC server that listens to the network as well, whatever it was told.
refuse_ports() {
	while kill -0 "$1" 2>/dev/null && [ ! -S rfb ]; do sleep 0.02; done
	for file in "/proc/$1/fd"/*; do
		inode=$(readlink "$file") || continue
		inode=${inode#socket:[} inode=${inode%]}
		if grep -qsE "^ *[0-9]+: [^ ]+ [^ ]+ 0A .* $inode " /proc/net/tcp /proc/net/tcp6; then kill -s KILL "$1"; fi
	done
}

# Ends the X server when nobody has looked for the grace time.
watch_over() {
	since=$(date +%s)
	while kill -0 "$server" 2>/dev/null; do
		sleep $((grace / 60 + 1))
		now=$(date +%s)
		if holds looks "$PWD/rfb"; then
			since=$now
		elif [ $((now - since)) -ge "$grace" ]; then
			kill "$server"
		fi
	done
}

look_after() {
	trap '' HUP
	# Others who open it for reading see its end when this shell has gone, whatever ended it.
	exec 9<>end
	# `start` waits for its end.
	exec 7>started
	"begin_$servers"
	# Without a line, the server has ended.
	read -r display <number || { rm -f rfb; return; }
	"show_$servers"
	mkfifo said
	{ head -c 65536 >saying; cat >/dev/null; } <said 7>&- 9>&- &
	if [ "$sound" != 0 ]; then
		export PULSE_SERVER="tcp:127.0.0.1:$sound" PULSE_COOKIE="$windows/$id/cookie"
	fi
	if [ "$scale" != 1 ]; then export GDK_SCALE="$scale" XCURSOR_SIZE=$((24 * scale)); fi
	# Without a locale, Xlib takes no characters but English ones from keys that are pressed one after the other.
	if [ -z "${LC_ALL-}${LC_CTYPE-}${LANG-}" ]; then export LANG=C.UTF-8; fi
	# As if it were started from its own shell: in the home, with what a login sets.
	(cd && exec env DISPLAY=":$display" XAUTHORITY="$windows/$id/key" "$@") </dev/null >said 2>&1 7>&- 9>&- &
	application=$!
	echo "$application" >application
	rm number
	echo "$display" >number
	mv number display
	exec 7>&-
	status=0
	wait $application || status=$?
	echo "$status" >status
	exec 9>&-
	# An application may have begun another one. When all windows are closed, somebody says `stop`.
	wait "$server" || :
	rm -f rfb key cookie
}

start() {
	id=$1 size=${2%@*} scale=1 grace=$3 sound=$4
	case $2 in *@[2-4]) scale=${2##*@} ;; esac
	shift 4
	# Xvnc is both servers in one, which is faster.
	if command -v Xvnc; then
		servers=tigervnc
	elif command -v Xvfb && command -v x11vnc; then
		servers=x11vnc
	else
		exit $no_display
	fi >/dev/null
	command -v socat >/dev/null || exit $no_display
	command -v -- "$1" >/dev/null || exit $no_program
	mkdir -p "$windows"
	sweep
	mkdir "$windows/$id"
	cd "$windows/$id"
	# Byte by byte: what follows belongs to another file.
	dd bs=1 count=256 >cookie 2>/dev/null
	cat >key
	echo "$sound" >sound
	mkfifo end number started
	printf '%s\n' "$1" >name
	# Nothing that ssh waits for stays open: a shell keeps what it redirects for a function alone.
	(
		exec </dev/null >/dev/null 2>&1
		look_after "$@"
	) &
	echo $! >pid
	cat started
	if [ ! -e display ]; then
		tail -n 5 server-said >&2
		cd "$windows"
		rm -rf "$id"
		exit $no_server
	fi
	rm started
	cat key
}

attach() {
	alive "$1" || exit $no_window
	cd "$windows/$1"
	cat sound cookie key
}

connect() {
	read -r _
	alive "$1" || exit $no_window
	place=$windows/$1 socket=$windows/$1/rfb ours=$windows/$1/looks
	if [ "$2" = display ]; then
		read -r display <"$place/display"
		socket=/tmp/.X11-unix/X$display ours=$place/manages
	else
		while [ ! -S "$socket" ] && alive "$1"; do sleep 0.02; done
		alive "$1" || exit $no_window
	fi
	# The window moves to who comes last. The earlier one may be behind a connection whose break this host has not noticed.
	if holds "$ours" "$socket"; then kill "$pid" 2>/dev/null || :; fi
	echo $$ >"$ours"
	# Tried again for five seconds: a server that was ended leaves its socket, until another one begins.
	exec socat - "UNIX-CONNECT:$socket,retry=100,interval=0.05"
}

await() {
	read -r _
	cd "$windows/$1" 2>/dev/null || exit $no_window
	if alive "$1" && [ ! -e status ]; then
		# Nobody writes into it: the end is what is waited for, or that of who asked.
		cat end &
		waits=$!
		exec 8<&0
		{
			read -r _ || :
			kill $waits
		} <&8 &
		wait $waits || :
		kill $! 2>/dev/null || :
	fi
	cat status 2>/dev/null || echo lost
	tail -c 2000 saying 2>/dev/null || :
}

stop() {
	cd "$windows/$1" 2>/dev/null || exit $no_window
	if alive "$1"; then
		# All that it started is in one group, unless it took care not to be; that loses its display.
		read -r _ _ _ _ group _ <"/proc/$pid/stat"
		read -r program <application || program=
		[ -e status ] || kill -s TERM "$program" 2>/dev/null || :
		tries=0
		while [ ! -e status ] && [ $((tries += 1)) -le 50 ]; do sleep 0.1; done
		# To the groups 0 and 1, kill would mean others.
		[ "$group" -le 1 ] || kill -s KILL -- "-$group" 2>/dev/null || :
		while alive "$1"; do sleep 0.02; done
	fi
	cd "$windows"
	# A connection that is made meanwhile may write its file while the others are removed.
	tries=0
	until rm -rf "$1" 2>/dev/null; do
		[ $((tries += 1)) -le 50 ] || break
		sleep 0.02
	done
	[ ! -e "$1" ]
}

list() {
	now=$(date +%s)
	for place in "$windows"/*/; do
		one=${place%/} one=${one##*/}
		{ [ -e "$place/display" ] && alive "$one"; } || continue
		echo "$one $((now - $(date -r "$place/display" +%s))) $(head -c 200 "$place/name")"
	done
	[ ! -d "$windows" ] || sweep
}

shows() {
	cd /usr/share/applications 2>/dev/null || exit 1
	grep -qsE -e "^Exec=(/[^ ]*/)?$1( |\$)" -- *.desktop
}

action=$1
shift
case $action in
start) start "$@" ;;
wait) await "$@" ;;
attach) attach "$@" ;;
connect) connect "$@" ;;
stop) stop "$@" ;;
list) list ;;
shows) shows "$@" ;;
esac
