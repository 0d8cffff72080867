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
python3 -m pip wheel --no-deps --no-build-isolation --no-index --no-cache-dir --disable-pip-version-check \
	--wheel-dir /out .
