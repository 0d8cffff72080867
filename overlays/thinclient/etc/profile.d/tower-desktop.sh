# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# Logins: the desktop on the first console if its user wants that; consoles that are idle at a prompt are logged out.
if [ -z "${WAYLAND_DISPLAY-}" ] && [ "$(id -u)" != 0 ]; then
	tower_settings=$(
		# shellcheck source=../../usr/share/tower/desktop/settings.sh
		. /usr/share/tower/desktop/settings.sh
		echo "$at_login $lock"
	)
	# shellcheck disable=SC2034 # the shell looks at it
	TMOUT=$((${tower_settings#* } * 60))
	# The desktop takes the place of the shell: when it ends or fails, the login prompt returns.
	startw() {
		case $# in
		0) exec /usr/bin/startw ;;
		*) /usr/bin/startw "$@" ;;
		esac
	}
	case "${tower_settings% *} $(tty)" in
	'yes /dev/tty1') [ ! -x /usr/bin/labwc ] || exec /usr/bin/startw ;;
	esac
	unset tower_settings
fi
