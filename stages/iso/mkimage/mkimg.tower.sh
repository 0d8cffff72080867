# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034,SC2154 # variables that mkimage.sh reads or sets
# The thin client's medium, for mkimage.sh: a profile, a section with our own files, and the boot menus.

# mkimage.sh has set this to today's date; it reads this file afterwards.
build_date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%y%m%d)

profile_tower() {
	title="TowerOS thin client"
	desc="Live system of the thin client"
	arch="x86_64"
	image_ext="iso"
	output_format="iso"
	output_filename="tower.iso"
	kernel_flavors="$TOWER_FLAVOR"
	initfs_features="$TOWER_FEATURES"
	initfs_cmdline="$TOWER_CMDLINE"
	kernel_cmdline=""
	# A signature would be checked with a key on the same medium, so that it would prove nothing.
	modloop_sign=no
	grub_mod="all_video disk part_gpt part_msdos linux normal configfile search search_label efi_gop fat iso9660 cat echo ls test true help gzio"
	apks="$TOWER_PACKAGES"
	apkovl=""
	hostname=""
	iso_opts="-joliet-long --set_all_file_dates =$SOURCE_DATE_EPOCH"
}

section_tower() {
	[ "$PROFILE" = tower ] || return 0
	# One run builds one image, so that no checksum of the inputs is needed.
	build_section tower "$TOWER_ARCH"
}

# Images, wheels and manual lie on the medium as files. In the apkovl they would be unpacked into memory at
# every start.
build_tower() {
	mkdir -p "$DESTDIR/toweros/images" || return 1
	cp /in/apkovl/*.apkovl.tar.gz "$DESTDIR/" &&
		cp -R /in/docs/docs "$DESTDIR/toweros/docs" &&
		cp -R /in/wheels "$DESTDIR/toweros/wheels" || return 1
	local target file image sums=/work/SHA256SUMS
	: >"$sums"
	for target in rpi pc; do
		for file in /in/host-"$target"/image.img*; do
			[ -f "$file" ] || continue
			image=$DESTDIR/toweros/images/toweros-host-$TOWER_VERSION-$TOWER_CHANNEL-$target.${file##*/image.}
			ln -s "$file" "$image" && cp "/in/host-$target/image.bmap" "$image.bmap" &&
				python3 /stage/host_manifest.py "$image" "$target" "$sums" || return 1
		done
	done
	LC_ALL=C sort -k 2 "$sums" >"$DESTDIR/toweros/images/SHA256SUMS"
}

# An entry: <label of syslinux> <title> <more words for the kernel>
tower_entries() {
	"$1" tower "TowerOS" ""
	"$1" setup "Install TowerOS" "tower.setup"
}

tower_syslinux_entry() {
	cat <<-EOF
		SAY $1: $2
		LABEL $1
			MENU LABEL $2
			KERNEL /boot/vmlinuz-$kernel_flavors
			INITRD /boot/initramfs-$kernel_flavors
			APPEND $initfs_cmdline $3
	EOF
}

syslinux_gen_config() {
	cat <<-EOF
		SERIAL 0 115200
		PROMPT 1
		TIMEOUT 20
		DEFAULT tower
	EOF
	tower_entries tower_syslinux_entry
}

tower_grub_entry() {
	cat <<-EOF
		menuentry "$2" --id $1 {
			linux /boot/vmlinuz-$kernel_flavors $initfs_cmdline $3
			initrd /boot/initramfs-$kernel_flavors
		}
	EOF
}

grub_gen_config() {
	cat <<-EOF
		set timeout=2
		set default=tower
	EOF
	tower_entries tower_grub_entry
}
