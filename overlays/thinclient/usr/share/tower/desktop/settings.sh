# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# The settings of the desktop, read from a file of the user's that no shell ever runs: at_login, lock (minutes), wallpaper.
# Invalid lines are ignored.

settings=$HOME/.config/tower/desktop
default_wallpaper=/usr/share/tower/desktop/wallpaper.png
at_login=no
lock=5
wallpaper=$default_wallpaper

valid_lock() {
	case $1 in
	'' | *[!0-9]* | 0* | ????*) return 1 ;;
	*) [ "$1" -le 600 ] ;;
	esac
}

valid_wallpaper() {
	case $1 in
	*[[:cntrl:]]*) return 1 ;;
	/*) return 0 ;;
	*) return 1 ;;
	esac
}

if [ -f "$settings" ]; then
	while IFS= read -r line || [ -n "$line" ]; do
		value=${line#*=}
		case $line in
		at_login=yes | at_login=no) at_login=$value ;;
		lock=*) if valid_lock "$value"; then lock=$value; fi ;;
		wallpaper=*) if valid_wallpaper "$value"; then wallpaper=$value; fi ;;
		esac
	done <"$settings"
fi
