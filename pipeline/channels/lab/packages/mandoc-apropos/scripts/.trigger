#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
[ ! -d /usr/share/man ] || makewhatis -T utf8 /usr/share/man
