#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `tree` holds the files for the thin client's file system.
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
need_files /in/wheels

# Wheels are zip files, which Python reads as they are; nothing compiled is needed to say what the commands are.
PYTHONPATH=$(printf '%s:' /in/wheels/*.whl)
PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH PYTHONDONTWRITEBYTECODE
python3 -P /stage/write.py /out
