#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
# shellcheck source=../../overlays/pack.sh
. /src/overlays/pack.sh
drawn=/work/drawn/usr/share/tower/desktop
mkdir -p "$drawn"
python3 /stage/wallpaper.py "$drawn/wallpaper.png"
pack_overlay thinclient 'thin client' 'in the folder docs, or toweros/docs on the medium' /work/drawn
