#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh

need_files /in/manual/commands.md
cp -R /src/docs /out/docs
cp /in/manual/commands.md /out/docs/commands.md
