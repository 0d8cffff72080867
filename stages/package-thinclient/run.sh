#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
# shellcheck source=../../overlays/pack.sh
. /src/overlays/pack.sh
pack_overlay thinclient 'thin client' 'in the folder docs, or toweros/docs on the medium'
