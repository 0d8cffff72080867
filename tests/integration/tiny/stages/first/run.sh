#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu

echo "first works"
cp /src/text/first /out/first
