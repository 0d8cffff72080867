#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
# shellcheck source=../../overlays/pack.sh
. /src/overlays/pack.sh
pack_overlay host 'host' 'on the thin client, in docs'
