# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# A PC starts by BIOS or by UEFI: GRUB for both, with one menu.

common='part_msdos part_gpt fat normal linux search search_label configfile echo test gzio'

# boot_grub ROOT PARTS BOOT: from the GRUB packages' files to the boot partition, /out/mbr.bin and /out/core.bin
boot_grub() {
	parts=$2
	boot=$3
	mkdir -p "$boot/EFI/BOOT" "$boot/grub"
	# Both kinds find the partition by its label, whatever the disk is called.
	cat >/work/early.cfg <<-EOF
		search --no-floppy --set=root --label TOWER-BOOT
		set prefix=(\$root)/grub
	EOF
	# shellcheck disable=SC2086 # list of words
	grub-mkimage --directory="$parts/usr/lib/grub/x86_64-efi" --format=x86_64-efi --config=/work/early.cfg \
		--prefix=/grub --output="$boot/EFI/BOOT/BOOTX64.EFI" $common efi_gop all_video
	# shellcheck disable=SC2086 # list of words
	grub-mkimage --directory="$parts/usr/lib/grub/i386-pc" --format=i386-pc --config=/work/early.cfg \
		--prefix=/grub --output=/out/core.bin $common biosdisk serial terminal
	# boot.img loads the sector after it, which holds the list of the rest: core.bin lies right behind the MBR.
	dd if="$parts/usr/lib/grub/i386-pc/boot.img" of=/out/mbr.bin bs=440 count=1 status=none
	cat >"$boot/grub/grub.cfg" <<-EOF
		set timeout=1
		set default=0
		# UEFI's own console goes to the serial line already where there is one.
		if [ "\$grub_platform" = pc ]; then
			serial --unit=0 --speed=115200
			terminal_input console serial
			terminal_output console serial
		fi
		menuentry "TowerOS host" {
			linux /vmlinuz-$TOWER_FLAVOR $TOWER_CMDLINE
			initrd /initramfs-$TOWER_FLAVOR
		}
	EOF
}
