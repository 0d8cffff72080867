#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu

echo "second works"
cat /in/first/first /src/text/second > /out/second
