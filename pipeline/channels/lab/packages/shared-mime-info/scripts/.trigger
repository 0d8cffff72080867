#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
update-mime-database /usr/share/mime
