#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -eu
# shellcheck source=../lib/stage.sh
. /stagelib/stage.sh
need_packages world "$TOWER_WORLD"
need_packages installed "$TOWER_INSTALLED"

# The images of hosts that the medium will carry: `tower` takes just these, besides those that their makers signed.
TOWER_IMAGES=/work/images.sha256
for target in rpi pc; do
	for file in /in/host-"$target"/image.img*; do
		[ ! -f "$file" ] || printf '%s  toweros-host-%s-%s-%s.%s\n' "$(sha256sum <"$file" | cut -d ' ' -f 1)" \
			"$TOWER_VERSION" "$TOWER_CHANNEL" "$target" "${file##*/image.}"
	done
done >"$TOWER_IMAGES"
servers repositories "$TOWER_REPOSITORIES" >/work/repositories
TOWER_REPOSITORIES=/work/repositories
export TOWER_IMAGES TOWER_REPOSITORIES

cd /out
sh /stage/genapkovl-tower.sh thinclient
