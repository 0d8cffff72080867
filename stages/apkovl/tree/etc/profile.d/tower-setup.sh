# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# For "Install TowerOS" in the boot menu: root's first login runs the installer. A second login gets a shell.
if [ -t 0 ] && [ "$(id -u)" = 0 ] && grep -qw tower.setup /proc/cmdline && mkdir /run/tower-setup 2>/dev/null; then
	tower setup || echo "Not installed. To begin again: tower setup"
fi
