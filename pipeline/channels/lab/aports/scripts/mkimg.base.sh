# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034,SC2153,SC2154 # variables that mkimage.sh and profiles set and read
#
# The sections of every medium: kernels, packages, apkovl, boot loaders; the image formats iso and
# tar.gz; and the profile that others start from.

# --- kernels ------------------------------------------------------------------------------------

# build_kernel ARCH FLAVOR ID PACKAGES...
build_kernel() {
	local flavor="$2" addon
	shift 3
	set -- --package "$*" "$DESTDIR"
	[ -z "$_abuild_pubkey" ] || set -- --apk-pubkey "$_abuild_pubkey" "$@"
	[ -z "$_hostkeys" ] || set -- "$_hostkeys" "$@"
	[ "$modloop_sign" != yes ] || set -- --modloopsign "$@"
	[ -z "$modloopfw" ] || set -- --modloopfw "$modloopfw" "$@"
	update-kernel --media --flavor "$flavor" --arch "$ARCH" --feature "$initfs_features" \
		--keys-dir "$APKROOT/etc/apk/keys" --repositories-file "$APKROOT/etc/apk/repositories" "$@" || return 1
	for addon in $boot_addons; do
		apk fetch --root "$APKROOT" --quiet --stdout "$addon" | tar -C "$DESTDIR" -xz boot/ || return 1
	done
}

section_kernels() {
	local flavor addon packages id
	for flavor in $kernel_flavors; do
		packages="linux-$flavor linux-firmware wireless-regdb $modloop_addons"
		for addon in $kernel_addons; do
			packages="$packages $addon-$flavor"
		done
		# What the packages are now, and all else the result depends on
		# shellcheck disable=SC2086 # lists
		id=$(
			{
				echo "$initfs_features::$_hostkeys::$modloopfw::$modloop_sign::$boot_addons"
				apk fetch --root "$APKROOT" --simulate alpine-base mkinitfs $packages $boot_addons | sort
			} | checksum
		)
		# shellcheck disable=SC2086 # a list
		build_section kernel "$ARCH" "$flavor" "$id" $packages
	done
}

# --- the medium's own packages --------------------------------------------------------------------

build_apks() {
	local apksdir="$DESTDIR/apks" archdir="$DESTDIR/apks/$ARCH"
	mkdir -p "$archdir"
	# shellcheck disable=SC2086 # a list
	apk fetch --root "$APKROOT" --link --recursive --output "$archdir" $apks || return 1
	set -- "$archdir"/*.apk
	[ -e "$1" ] || return 1
	apk index --description "$RELEASE" --rewrite-arch "$ARCH" \
		--index "$archdir/APKINDEX.tar.gz" --output "$archdir/APKINDEX.tar.gz" "$@" || return 1
	abuild-sign "$archdir/APKINDEX.tar.gz" || return 1
	: > "$apksdir/.boot_repository"
}

section_apks() {
	local id
	[ -n "$apks" ] || return 0
	# shellcheck disable=SC2086 # a list
	id=$(apk fetch --root "$APKROOT" --simulate --recursive $apks | sort | checksum)
	build_section apks "$ARCH" "$id"
}

# --- apkovl ---------------------------------------------------------------------------------------

# Where the script of $apkovl is: here, among the user's plugins, beside this file
apkovl_script() {
	local file
	for file in "$PWD/$apkovl" "${HOME:-}/.mkimage/$apkovl" "$scriptdir/$apkovl"; do
		if [ -f "$file" ]; then
			echo "$file"
			return 0
		fi
	done
	printf 'mkimage: there is no %s\n' "$apkovl" >&2
	return 1
}

build_apkovl() {
	local script
	script=$(apkovl_script) || return 1
	msg "Generating $1.apkovl.tar.gz"
	(cd "$DESTDIR" && fakeroot sh "$script" "$1")
}

section_apkovl() {
	local script id
	[ -n "$apkovl" ] && [ -n "$hostname" ] || return 0
	script=$(apkovl_script) || return 1
	id=$(checksum < "$script")
	build_section apkovl "$hostname" "$id"
}

# --- isolinux -------------------------------------------------------------------------------------

build_syslinux() {
	local name
	mkdir -p "$DESTDIR/boot/syslinux"
	apk fetch --root "$APKROOT" --quiet --stdout syslinux | tar -C "$DESTDIR" -xz usr/share/syslinux || return 1
	for name in isohdpfx.bin isolinux.bin ldlinux.c32 libutil.c32 libcom32.c32 mboot.c32; do
		mv "$DESTDIR/usr/share/syslinux/$name" "$DESTDIR/boot/syslinux/$name" || return 1
	done
	rm -rf "${DESTDIR:?}/usr"
}

section_syslinux() {
	local id
	[ "$ARCH" = x86_64 ] && [ "$output_format" = iso ] || return 0
	id=$(apk fetch --root "$APKROOT" --simulate syslinux | sort | checksum)
	build_section syslinux "$id"
}

syslinux_gen_config() {
	local flavor initrd file
	[ -z "$syslinux_serial" ] || echo "SERIAL $syslinux_serial"
	echo "TIMEOUT ${syslinux_timeout:-10}"
	echo "PROMPT ${syslinux_prompt:-1}"
	echo "DEFAULT ${kernel_flavors%% *}"
	for flavor in $kernel_flavors; do
		initrd=/boot/initramfs-$flavor
		for file in $initrd_ucode; do
			initrd=$file,$initrd
		done
		cat <<-EOF

			LABEL $flavor
				MENU LABEL Linux $flavor
				KERNEL /boot/vmlinuz-$flavor
				INITRD $initrd
				APPEND $initfs_cmdline $kernel_cmdline
		EOF
	done
}

build_syslinux_cfg() {
	mkdir -p "$(dirname "$DESTDIR/$1")"
	syslinux_gen_config > "$DESTDIR/$1"
}

section_syslinux_cfg() {
	local id
	syslinux_cfg=""
	if [ "$ARCH" = x86_64 ] && [ "$output_format" = iso ]; then
		syslinux_cfg=boot/syslinux/syslinux.cfg
	fi
	[ -z "$uboot_install" ] || syslinux_cfg=extlinux/extlinux.conf
	[ -n "$syslinux_cfg" ] || return 0
	id=$(syslinux_gen_config | checksum)
	build_section syslinux_cfg "$syslinux_cfg" "$id"
}

# --- GRUB for UEFI --------------------------------------------------------------------------------

# The label by which the boot loader finds the medium; a volume's name has at most 32 characters.
volume_id() {
	printf 'alpine-%s %s %s' "${profile_abbrev:-$PROFILE}" "$RELEASE" "$ARCH" | cut -c 1-32
}

grub_gen_config() {
	local flavor initrd file
	echo "set timeout=1"
	for flavor in $kernel_flavors; do
		initrd=/boot/initramfs-$flavor
		for file in $initrd_ucode; do
			initrd="$file $initrd"
		done
		cat <<-EOF

			menuentry "Linux $flavor" {
				linux	/boot/vmlinuz-$flavor $initfs_cmdline $kernel_cmdline
				initrd	$initrd
			}
		EOF
	done
}

grub_gen_earlyconf() {
	cat <<-EOF
		search --no-floppy --set=root --label "$(volume_id)"
		set prefix=(\$root)/boot/grub
	EOF
}

build_grub_cfg() {
	mkdir -p "$(dirname "$DESTDIR/$1")"
	grub_gen_config > "$DESTDIR/$1"
}

# build_grub_efi FORMAT FILE ID
build_grub_efi() {
	local early="$WORKDIR/grub_early.$3.cfg"
	mkdir -p "$DESTDIR/efi/boot"
	grub_gen_earlyconf > "$early"
	# shellcheck disable=SC2086 # a list
	grub-mkimage --config="$early" --prefix=/boot/grub --output="$DESTDIR/efi/boot/$2" \
		--format="$1" --compression=xz $grub_mod
}

section_grub_efi() {
	local format file id
	[ -n "$grub_mod" ] || return 0
	case "$ARCH" in
	aarch64) format=arm64-efi file=bootaa64.efi ;;
	x86_64) format=x86_64-efi file=bootx64.efi ;;
	*) return 0 ;;
	esac
	id=$(grub_gen_config | checksum)
	build_section grub_cfg boot/grub/grub.cfg "$id"
	id=$({ grub_gen_earlyconf; echo "$grub_mod"; } | checksum)
	build_section grub_efi "$format" "$file" "$id"
}

# --- images ---------------------------------------------------------------------------------------

# The FAT image that UEFI starts from, with the boot loader alone in it
make_efi_image() {
	local image="$DESTDIR/boot/grub/efi.img" blocks
	rm -f "$image"
	blocks=$(du -sk --apparent-size "$DESTDIR/efi" | cut -f 1)
	# A floppy's size where it fits, as firmware expects; else a FAT of any size.
	if [ "$blocks" -le 1300 ]; then
		mformat -i "$image" -C -f 1440 -N 0 :: || return 1
	else
		mformat -i "$image" -C -T $(((blocks + 512) * 2)) -h 16 -s 63 -N 0 :: || return 1
	fi
	TZ=UTC mcopy -m -s -i "$image" "$DESTDIR/efi" :: || return 1
	[ -z "${SOURCE_DATE_EPOCH:-}" ] || touch -d "@$SOURCE_DATE_EPOCH" "$image" "$DESTDIR/boot/grub"
}

create_image_iso() {
	set --
	if [ -e "$DESTDIR/boot/syslinux/isolinux.bin" ]; then
		# The hybrid MBR lets the same image start from a USB stick.
		set -- -isohybrid-mbr "$DESTDIR/boot/syslinux/isohdpfx.bin" \
			-eltorito-boot boot/syslinux/isolinux.bin -eltorito-catalog boot/syslinux/boot.cat \
			-no-emul-boot -boot-load-size 4 -boot-info-table
	fi
	if [ -e "$DESTDIR/efi" ] && [ -e "$DESTDIR/boot/grub" ]; then
		make_efi_image || return 1
		if [ $# -gt 0 ]; then
			set -- "$@" -eltorito-alt-boot -e boot/grub/efi.img -no-emul-boot -isohybrid-gpt-basdat
		else
			set -- -efi-boot-part --efi-boot-image -e boot/grub/efi.img -no-emul-boot
		fi
	fi
	# shellcheck disable=SC2086 # iso_opts are several words
	xorrisofs -quiet -output "$OUTDIR/$output_filename" \
		-full-iso9660-filenames -joliet -rational-rock -sysid LINUX \
		-volid "$(volume_id)" "$@" -follow-links $iso_opts "$DESTDIR"
}

create_image_targz() {
	tar -C "$DESTDIR" --sort=name --mtime="@${SOURCE_DATE_EPOCH:-0}" --owner=0 --group=0 --numeric-owner \
		-chf - . | gzip -9n > "$OUTDIR/$output_filename"
}

# --- the profile others start from ----------------------------------------------------------------

profile_base() {
	arch="x86_64 aarch64"
	image_ext="iso"
	output_format="iso"
	kernel_flavors="lts"
	initfs_cmdline="modules=loop,squashfs,sd-mod,usb-storage quiet"
	initfs_features="ata base cdrom ext4 mmc nvme raid scsi squashfs usb virtio"
	modloop_sign=yes
	grub_mod="all_video disk part_gpt part_msdos linux normal configfile search search_label efi_gop fat iso9660 cat echo ls test true help gzio"
	case "$ARCH" in
	x86_64)
		grub_mod="$grub_mod multiboot2 efi_uga"
		initfs_features="$initfs_features nfit"
		;;
	esac
	apks="alpine-base busybox chrony doas e2fsprogs openssl openssh tzdata"
	apkovl=""
	hostname="alpine"
}
