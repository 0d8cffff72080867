# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# bash completes the words of `tower` and the names of hosts.
case ${BASH_VERSION:+bash} in
bash)
	# shellcheck source=/dev/null
	[ ! -r /usr/share/bash-completion/completions/tower ] || . /usr/share/bash-completion/completions/tower
	;;
esac
