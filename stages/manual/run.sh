#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `tree` holds the files for the thin client's file system.
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
need_files /src/runtime /in/device

# From the sources, so that it need not wait for the wheel. The wheels that it takes are zip files, which Python reads as
# they are; nothing compiled is needed to say what the commands are.
mkdir /work/python
ln -s /src/runtime /work/python/tower
PYTHONPATH=/work/python:$(printf '%s:' /in/device/*.whl)
PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH PYTHONDONTWRITEBYTECODE
python3 -P /stage/write.py /out
