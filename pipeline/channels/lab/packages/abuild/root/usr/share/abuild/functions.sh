# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# Functions of abuild that mkimage.sh and its plugins use; to be sourced.

sysconfdir=${sysconfdir:-/etc}
: "${ABUILD_CONF:=$sysconfdir/abuild.conf}"
: "${ABUILD_USERDIR:=${HOME:-/root}/.abuild}"
: "${ABUILD_USERCONF:=$ABUILD_USERDIR/abuild.conf}"

# Settings: what the environment says wins over the user's file, and that over the system's.
readconfig() {
	_env_privkey=${PACKAGER_PRIVKEY-} _env_packager=${PACKAGER-}
	_env_repodest=${REPODEST-}
	# shellcheck source=/dev/null
	[ ! -f "$ABUILD_CONF" ] || . "$ABUILD_CONF"
	# shellcheck source=/dev/null
	[ ! -f "$ABUILD_USERCONF" ] || . "$ABUILD_USERCONF"
	PACKAGER_PRIVKEY=${_env_privkey:-${PACKAGER_PRIVKEY-}}
	PACKAGER=${_env_packager:-${PACKAGER-}}
	REPODEST=${_env_repodest:-${REPODEST-}}
	unset _env_privkey _env_packager _env_repodest
}

disable_colors() {
	# shellcheck disable=SC2034  # for those who source this file
	NORMAL='' STRONG='' RED='' GREEN='' YELLOW='' BLUE=''
}

enable_colors() {
	_escape=$(printf '\033')
	# shellcheck disable=SC2034  # for those who source this file
	NORMAL="${_escape}[1;0m"
	STRONG="${_escape}[1;1m"
	RED="${_escape}[1;31m"
	GREEN="${_escape}[1;32m"
	YELLOW="${_escape}[1;33m"
	# shellcheck disable=SC2034  # for those who source this file
	BLUE="${_escape}[1;34m"
	unset _escape
}

default_colors() {
	enable_colors
}

_abuild_say() { # prompt, colour, words...
	_prompt=$1 _colour=$2
	shift 2
	printf '%s %s%s\n' "$_colour$_prompt$NORMAL" "${name:+$STRONG$name$NORMAL: }" "$*" >&2
}

msg() {
	[ -n "${quiet-}" ] || _abuild_say '>>>' "$GREEN" "$@"
}

msg2() {
	[ -n "${quiet-}" ] || printf '    %s\n' "$*" >&2
}

warning() {
	_abuild_say '>>> WARNING:' "$YELLOW" "$@"
}

warning2() {
	printf '    %s\n' "$*" >&2
}

error() {
	_abuild_say '>>> ERROR:' "$RED" "$@"
}

error2() {
	printf '    %s\n' "$*" >&2
}

die() {
	error "$@"
	exit 1
}

arch_to_hostspec() {
	case $1 in
	aarch64) echo aarch64-alpine-linux-musl ;;
	armhf) echo armv6-alpine-linux-musleabihf ;;
	armv7) echo armv7-alpine-linux-musleabihf ;;
	riscv64) echo riscv64-alpine-linux-musl ;;
	x86) echo i586-alpine-linux-musl ;;
	x86_64) echo x86_64-alpine-linux-musl ;;
	*) echo unknown ;;
	esac
}

hostspec_to_arch() {
	case $1 in
	aarch64*-*-*) echo aarch64 ;;
	armv6*-*-*eabihf) echo armhf ;;
	armv7*-*-*eabihf) echo armv7 ;;
	i[3456]86-*-*) echo x86 ;;
	riscv64-*-*) echo riscv64 ;;
	x86_64-*-*) echo x86_64 ;;
	*) echo unknown ;;
	esac
}


# Colours only for people: a terminal on standard error, and no wish against them.
if [ -n "${NO_COLOR-}" ] || [ "${USE_COLORS-}" != force ] && [ ! -t 2 ]; then
	disable_colors
else
	default_colors
fi

readconfig
