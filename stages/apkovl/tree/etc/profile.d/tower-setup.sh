# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# The boot menu's "Install TowerOS": the first login of root is asked the questions. A second one gets a shell.
if [ -t 0 ] && [ "$(id -u)" = 0 ] && grep -qw tower.setup /proc/cmdline && mkdir /run/tower-setup 2>/dev/null; then
	tower setup || echo "Not installed. To begin again: tower setup"
fi
