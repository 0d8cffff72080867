#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu

echo "third works"
cat /in/second/second >/out/image.img
echo "block map" >/out/image.bmap
