# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# Running the channel's mkimage.sh, for the stages modloop and iso. Needs stage.sh.

MKIMAGE_WORK=/work/mkimage

# mkimage PROFILE OUTDIR: build a profile of /stage/mkimage, whose files are mkimage.sh's plugins.
mkimage() {
	mkdir -p "$HOME/.mkimage" "$2" /work/aports/main/build-base
	cp /stage/mkimage/* "$HOME/.mkimage/"
	# mkimage.sh wants the whole of aports around it; its scripts are enough.
	ln -sfn /in/aports/scripts /work/aports/scripts

	# mkimage.sh would make this root with the builder's keys; ours trusts what devices of the channel trust.
	root=$MKIMAGE_WORK/apkroot-$TOWER_ARCH
	mkdir -p "$root/etc/apk/keys" "$root/etc/apk/cache"
	cp /in/keys/*.pub "$root/etc/apk/keys/"
	repositories "$root/etc/apk/repositories"
	tower_apk "$root" add --initdb

	# The live system trusts the medium's own repository by this key. A stage without it is given the sections that need it.
	if [ -f /run/secrets/signing-key ]; then
		PACKAGER_PUBKEY=/in/keys/$TOWER_SIGNING_KEY_NAME
		mkdir -p /tmp/keys
		PACKAGER_PRIVKEY=/tmp/keys/${TOWER_SIGNING_KEY_NAME%.pub}
		cp /run/secrets/signing-key "$PACKAGER_PRIVKEY"
		cp "$PACKAGER_PUBKEY" /tmp/keys/
		export PACKAGER_PRIVKEY PACKAGER_PUBKEY
	fi
	export APORTS=/work/aports

	# mkimage.sh lets `apk index` look for keys in the builder's /etc, which is not the place of the channel's. Of each root
	# that update-kernel installs by names and then removes, the packages are noted, to be compared with the lock.
	mkdir -p /work/bin /work/by-name/lib/apk/db
	cat >/work/bin/apk <<-EOF
		#!/bin/sh
		if [ "\$1" = index ]; then
			shift
			set -- index --keys-dir /in/keys "\$@"
		fi
		$(command -v apk) "\$@" || exit
		case " \$* " in *" add "*) ;; *) exit 0 ;; esac
		while [ \$# -gt 0 ]; do
			case \$1 in
			-p | --root) cat "\$2/lib/apk/db/installed" ;;
			--root=*) cat "\${1#--root=}/lib/apk/db/installed" ;;
			esac
			shift
		done >>/work/by-name/lib/apk/db/installed
	EOF
	chmod +x /work/bin/apk
	steady_cpio
	quick_initramfs

	# update-kernel, run by root, would install its tools into the builder, which has them; under fakeroot it does not ask.
	FAKEROOTKEY=none
	export FAKEROOTKEY

	# Plugins are looked for here too. mkimage.sh wants a repository named; it takes all that the root above names.
	cd "$HOME/.mkimage" || return 1
	sh /in/aports/scripts/mkimage.sh --tag "$TOWER_VERSION" --arch "$TOWER_ARCH" --profile "$1" --outdir "$2" \
		--workdir "$MKIMAGE_WORK" --repository "$(head -n 1 "$root/etc/apk/repositories")"
}
