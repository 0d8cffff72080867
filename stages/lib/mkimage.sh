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

	# The live system trusts the medium's own repository by this key.
	PACKAGER_PUBKEY=/in/keys/$TOWER_SIGNING_KEY_NAME
	if [ -f /run/secrets/signing-key ]; then
		mkdir -p /tmp/keys
		PACKAGER_PRIVKEY=/tmp/keys/${TOWER_SIGNING_KEY_NAME%.pub}
		cp /run/secrets/signing-key "$PACKAGER_PRIVKEY"
		cp "$PACKAGER_PUBKEY" /tmp/keys/
		export PACKAGER_PRIVKEY
	fi
	export PACKAGER_PUBKEY APORTS=/work/aports

	# mkimage.sh lets `apk index` look for keys in the builder's /etc, which is no place for the channel's.
	mkdir -p /work/bin
	cat >/work/bin/apk <<-EOF
		#!/bin/sh
		if [ "\$1" = index ]; then
			shift
			set -- index --keys-dir /in/keys "\$@"
		fi
		exec $(command -v apk) "\$@"
	EOF
	# mkinitfs's archive would hold the number of the device that its folder lay on, which is another each time.
	cat >/work/bin/cpio <<-EOF
		#!/bin/sh
		case " \$* " in *" -o "*) set -- --ignore-devno "\$@" ;; esac
		exec $(command -v cpio) "\$@"
	EOF
	chmod +x /work/bin/apk /work/bin/cpio
	PATH=/work/bin:$PATH
	export PATH

	# update-kernel, run by root, would install its tools into the builder, which has them; under fakeroot it does not ask.
	FAKEROOTKEY=none
	export FAKEROOTKEY

	# Plugins are looked for here too. mkimage.sh wants a repository named; it takes all that the root above names.
	cd "$HOME/.mkimage" || return 1
	sh /in/aports/scripts/mkimage.sh --tag "$TOWER_VERSION" --arch "$TOWER_ARCH" --profile "$1" --outdir "$2" \
		--workdir "$MKIMAGE_WORK" --repository "$(head -n 1 "$root/etc/apk/repositories")"
}
