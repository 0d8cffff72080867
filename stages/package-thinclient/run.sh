#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
. /src/overlays/pack.sh
pack_overlay thinclient 'thin client' '~/docs, or toweros/docs on the medium'
