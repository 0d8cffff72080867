# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034 # variables that mkimage.sh reads
# A profile without an image: its only section is the kernel's. The name must not hold a dash.

profile_towerkernel() {
	title="TowerOS kernel"
	desc="Kernel, initramfs and modloop of the thin client"
	arch="x86_64"
	image_ext="sections"
	output_format="sections"
	kernel_flavors="$TOWER_FLAVOR"
	initfs_features="$TOWER_FEATURES"
	modloop_sign=no
}

create_image_sections() {
	:
}
