#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh

cd /out
sh /stage/genapkovl-tower.sh thinclient
