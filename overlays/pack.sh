# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# The package of an overlay, for the stages package-*. They differ in which overlay is mounted, so that an edit in one
# leaves the other image's package alone.

# Packages whose files the overlays take over.
replaces='alpine-base alpine-baselayout alpine-baselayout-data alpine-release busybox doas openrc openssh-server openssh-server-common openssh-server-common-openrc'

# What a stage made for the overlay is laid over it: the manual of `tower`.
# pack_overlay <name of the overlay> <what the system is called> <where its manual is> [<a further tree>]
pack_overlay() {
	pack_more=${4-}
	[ ! -d /in/manual/tree ] || pack_more="$pack_more /in/manual/tree"
	# shellcheck disable=SC2086 # lists of words
	PYTHONPATH=/src python3 -m pipeline.apk.overlay \
		--owners /src/overlays/owners.toml \
		--name "toweros-$1" --version "$TOWER_VERSION-r0" \
		--description "Configuration of a TowerOS $2" \
		--depends $TOWER_DEPENDS --replaces $replaces \
		--set "version=$TOWER_VERSION" --set "channel=$TOWER_CHANNEL" --set "branch=$TOWER_BRANCH" --set "epoch=$TOWER_EPOCH" \
		--set "variant=$2" --set "variant_id=$1" --set "manual=$3" \
		--epoch "$TOWER_EPOCH" --output "/out/toweros-$1-$TOWER_VERSION-r0.apk" \
		/src/overlays/common "/src/overlays/$1" $pack_more
}
