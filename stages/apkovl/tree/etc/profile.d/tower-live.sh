# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# Where to go on from a login to the live system; the installer's entry of the boot menu says tower.mode=install.
if grep -qw tower.mode=install /proc/cmdline; then
	cat <<-EOF
		You chose to install. How is in the manual:
		    less /media/*/toweros/docs/installing.md

	EOF
fi
