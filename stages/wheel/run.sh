#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# setuptools writes beside what it builds, so it works on a copy.
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
need_files /src/pyproject.toml /src/runtime

cp -R /src /work/tree
cd /work/tree
same_times /work/tree
# By the interface that pip calls as well (PEP 517); pip itself takes five times as long to start and to look around.
python3 -c 'import setuptools.build_meta as backend; backend.build_wheel("/out")'
