# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034 # variables that mkimage.sh reads
# A profile without an image, with the sections of packages alone. The name must not hold a dash.

profile_towerpackages() {
	title="TowerOS packages"
	desc="Packages of the thin client's medium"
	arch="x86_64"
	image_ext="sections"
	# There is a boot loader in images of this format alone.
	output_format="iso"
	apks="$TOWER_PACKAGES"
	apkovl=""
	hostname=""
}

create_image_sections() {
	:
}
