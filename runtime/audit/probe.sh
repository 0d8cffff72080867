#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What `tower audit` runs on a host, as root: sent over ssh, with lines after it that call these functions. It needs
# busybox alone (Alpine's, or Debian's static one), writes no file and ends by itself.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

# Alpine's nc says what went wrong only when asked twice; Debian's always does, and knows no such option.
nc_options=''
case $(busybox nc --help 2>&1) in *-v*) nc_options='-v -v' ;; esac
running=0

# try <number> tcp|udp|icmp|name <address> <port>: prints the number, the exit status and what was said, in one line.
# Several run at once.
try() {
	attempt "$@" &
	running=$((running + 1))
	if [ "$running" -ge 120 ]; then
		wait
		running=0
	fi
}

attempt() {
	six=''
	case $3 in *:*) six=6 ;; esac
	# shellcheck disable=SC2086 # options
	case $2 in
	tcp) said=$(busybox timeout 4 busybox nc $nc_options -w 2 "$3" "$4" 2>&1 </dev/null) ;;
	udp) said=$(busybox timeout 4 busybox traceroute$six -n -q 1 -m 1 -w 1 -p "$4" "$3" 2>&1 </dev/null) ;;
	icmp) said=$(busybox timeout 4 busybox ping -c 1 -W 1 "$3" 2>&1 </dev/null) ;;
	name) said=$(busybox timeout 6 busybox nslookup "$4" "$3" 2>&1 </dev/null) ;;
	resolve) said=$(busybox timeout 8 busybox nslookup "$4" 2>&1 </dev/null) ;;
	esac
	status=$?
	printf '%s %s %s\n' "$1" "$status" "$(printf '%s' "$said" | busybox tr -c ' -~' ' ')"
}

# section <name> <command...>: what a command prints, between two marks, with its exit status.
section() {
	name=$1
	shift
	printf '\n-- %s --\n' "$name"
	"$@" 2>&1 </dev/null
	printf '\n-- end %s --\n' "$?"
}

rules() {
	for table in raw mangle nat filter; do "$1" -t "$table" || return; done
}

hardware() {
	for interface in /sys/class/net/*; do
		[ -f "$interface/address" ] && echo "${interface##*/} $(busybox cat "$interface/address")"
	done
}

sockets() {
	for protocol in tcp tcp6 udp udp6; do
		[ ! -f "/proc/net/$protocol" ] || busybox sed "s/^/$protocol /" "/proc/net/$protocol"
	done
}

switches() {
	for switch in ipv4/ip_forward ipv6/conf/all/forwarding; do
		[ ! -f "/proc/sys/net/$switch" ] || echo "$switch $(busybox cat "/proc/sys/net/$switch")"
	done
}

addresses6() {
	[ ! -f /proc/net/if_inet6 ] || busybox cat /proc/net/if_inet6
}

name_servers() {
	[ ! -f /etc/resolv.conf ] || busybox cat /etc/resolv.conf
}

facts() {
	section hardware hardware
	section addresses6 addresses6
	section routes busybox cat /proc/net/route
	section switches switches
	section sockets sockets
	section name_servers name_servers
	section sshd sshd -T
	section rules4 rules iptables-save
	section rules6 rules ip6tables-save
}
