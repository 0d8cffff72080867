# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# The prompt: [user@machine folder]$
PS1='[\u@\h \W]\$ '
