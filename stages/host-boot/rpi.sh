# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# A Raspberry Pi starts from files alone: firmware, device trees, config.txt, cmdline.txt.

# boot_rpi ROOT PARTS BOOT: from the installed root and the firmware packages' files to the boot partition
boot_rpi() {
	root=$1
	parts=$2
	boot=$3
	cp -R "$parts"/boot/. "$boot/"
	for tree in "$root"/boot/*.dtb "$root"/boot/dtbs-"$TOWER_FLAVOR"/*.dtb "$root"/boot/dtbs-"$TOWER_FLAVOR"/broadcom/*.dtb; do
		[ ! -f "$tree" ] || cp "$tree" "$boot/"
	done
	for overlays in "$root/boot/overlays" "$root/boot/dtbs-$TOWER_FLAVOR/overlays"; do
		[ ! -d "$overlays" ] || cp -R "$overlays" "$boot/"
	done
	printf '%s\n' "$TOWER_CMDLINE" >"$boot/cmdline.txt"
	{
		echo 'arm_64bit=1'
		echo 'enable_uart=1'
		echo "kernel=vmlinuz-$TOWER_FLAVOR"
		echo "initramfs initramfs-$TOWER_FLAVOR followkernel"
		# The firmware looks for the names of its own kernel's device trees unless told otherwise.
		[ ! -f "$boot/bcm2837-rpi-3-b.dtb" ] || echo 'upstream_kernel=1'
	} >"$boot/config.txt"
}
