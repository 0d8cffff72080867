#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
cp -R /src/docs /out/docs
cp /in/manual/commands.md /out/docs/commands.md
