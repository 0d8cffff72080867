#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
. /src/overlays/pack.sh
pack_overlay host 'host' '~/docs of its thin client'
