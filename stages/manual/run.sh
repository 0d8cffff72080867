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

tower() {
	python3 -P -m tower "$@"
}

share=/out/tree/usr/share
mkdir -p "$share/man/man1" "$share/bash-completion/completions" "$share/zsh/site-functions" "$share/fish/vendor_completions.d"
tower mdhelp >/out/commands.md
tower mdhelp --man "$share/man/man1"
tower completion bash >"$share/bash-completion/completions/tower"
tower completion zsh >"$share/zsh/site-functions/_tower"
tower completion fish >"$share/fish/vendor_completions.d/tower.fish"
