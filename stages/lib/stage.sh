# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# What the shell scripts of several stages need. Sourced; the options are in TOWER_<OPTION>.

SOURCE_DATE_EPOCH=$TOWER_EPOCH
export SOURCE_DATE_EPOCH

# The channel's repositories. A stage that has their indexes from another stage sets this before it asks for them.
tower_repository=/in/repository

# refuse TEXT...: end the stage, for what it was given is wrong.
refuse() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# need_files FILE...: end the stage unless all are there, as files or folders with something in them.
need_files() {
	for tower_file; do
		case $tower_file in
		/in/*) tower_input="input ${tower_file#/in/}" ;;
		*) tower_input="source ${tower_file#/src/}" ;;
		esac
		[ -s "$tower_file" ] || refuse "${tower_input%%/*}: $tower_file is not there, or empty"
		[ ! -d "$tower_file" ] || [ -n "$(ls -A "$tower_file")" ] || refuse "${tower_input%%/*}: $tower_file is an empty folder"
	done
}

# need_packages OPTION WORDS: end the stage unless an option names packages, as apk's world does, and nothing else.
need_packages() (
	set -f
	[ -n "$(printf '%s' "$2" | tr -d ' \t\n')" ] || refuse "option $1: names no package"
	for tower_word in $2; do
		case $tower_word in
		[!A-Za-z0-9_.!]* | *[!A-Za-z0-9_.!+:~\<\>=@/-]*) refuse "option $1: $tower_word: not the name of a package" ;;
		esac
	done
)

# servers OPTION WORDS: print the addresses of repositories, one a line; end the stage unless each is one.
servers() (
	set -f
	for tower_word in $2; do
		case $tower_word in
		*[!A-Za-z0-9._:/-]*) refuse "option $1: $tower_word: not the address of a repository" ;;
		http://?*/?* | https://?*/?*) echo "$tower_word" ;;
		*) refuse "option $1: $tower_word: not the address of a repository" ;;
		esac
	done
)

# repositories FILE: write the channel's repositories, one a line; our own as well where a stage has them.
repositories() {
	for tower_place in "$tower_repository/$TOWER_BRANCH"/*; do
		# apk takes a repository for one of the second format unless it is told.
		tower_kind=
		[ ! -f "$tower_place/$TOWER_ARCH/Packages.adb" ] || tower_kind='v3 '
		echo "$tower_kind$tower_place"
	done >"$1"
	[ ! -d /in/packages ] || echo /in/packages >>"$1"
}

# tower_apk ROOT ARGS...: apk for a root of the stage's architecture, with the channel's keys and repositories.
tower_apk() {
	tower_root=$1
	shift
	[ -f /work/repositories ] || repositories /work/repositories
	apk --root "$tower_root" --arch "$TOWER_ARCH" --keys-dir /in/keys --repositories-file /work/repositories \
		--no-cache --no-network "$@"
}

# installed_in ROOT: print `name=version` of each installed package, sorted.
installed_in() {
	awk '/^P:/ { name = substr($0, 3) } /^V:/ { print name "=" substr($0, 3) }' "$1/lib/apk/db/installed" | LC_ALL=C sort
}

# only_in FILE OTHER: print the lines of a file that another file lacks.
only_in() {
	grep -vxFf "$2" "$1" || [ $? -eq 1 ]
}

# check_locked ROOT PACKAGES...: end the stage unless just these are installed, and the root's world needs just these.
check_locked() {
	tower_root=$1
	shift
	installed_in "$tower_root" >/work/installed-now
	printf '%s\n' "$@" >/work/installed-locked
	for tower_package in $(only_in /work/installed-now /work/installed-locked); do
		refuse "option locked: $tower_package is installed, and the lock does not name it"
	done
	for tower_package in $(only_in /work/installed-locked /work/installed-now); do
		refuse "option locked: $tower_package is not installed, although the lock names it"
	done
	tower_apk "$tower_root" add --simulate >/work/installed-next || {
		cat /work/installed-next
		refuse "option locked: its packages do not make up the world"
	}
	! grep '^([0-9]' /work/installed-next || refuse "option locked: the world asks for other packages than these"
}

# as_locked OPTION PACKAGES...: print each package of an option as the lock names it, `name=version`; end the stage if it does not.
as_locked() (
	set -f
	tower_option=$1
	shift
	for tower_package; do
		tower_found=
		for tower_word in $TOWER_LOCKED; do
			[ "${tower_word%%=*}" != "${tower_package%%[<>=~@]*}" ] || tower_found=$tower_word
		done
		[ -n "$tower_found" ] || refuse "option $tower_option: the lock does not name $tower_package"
		echo "$tower_found"
	done
)

# steady_cpio: from here on, archives by cpio do not hold the number of the device that their files lie on, which is
# another one in each sandbox. For mkinitfs.
steady_cpio() {
	mkdir -p /work/bin
	cat >/work/bin/cpio <<-EOF
		#!/bin/sh
		case " \$* " in *" -o "*) set -- --ignore-devno "\$@" ;; esac
		exec $(command -v cpio) "\$@"
	EOF
	chmod +x /work/bin/cpio
	PATH=/work/bin:$PATH
	export PATH
}

# quick_initramfs: from here on, mkinitfs packs with little effort. Most of an initramfs is modules, which are packed already: the
# best effort takes five times as long, for less than 2 % of the size.
quick_initramfs() {
	complevel_gzip=-1
	export complevel_gzip
}

# take_apart FOLDER NAME=VERSION...: lay the files of packages below a folder, without what they depend on. `apk fetch` takes
# names alone: end the stage if it chooses another version.
take_apart() {
	tower_folder=$1
	shift
	mkdir -p /work/fetch/root "$tower_folder"
	[ -d /work/fetch/root/lib/apk ] || tower_apk /work/fetch/root add --initdb
	for tower_package; do
		tower_apk /work/fetch/root fetch --output /work/fetch "${tower_package%%=*}"
		[ -f "/work/fetch/${tower_package%%=*}-${tower_package#*=}.apk" ] ||
			refuse "option locked: the lock names $tower_package, and apk chooses another version"
	done
	for tower_file in /work/fetch/*.apk; do
		case $(head -c 3 "$tower_file") in
		# The third format, which apk itself takes apart.
		ADB) tower_apk /work/fetch/root extract --destination "$tower_folder" "$tower_file" ;;
		*) tar -xzf "$tower_file" --warning=no-unknown-keyword -C "$tower_folder" --exclude='.[A-Z]*' ;;
		esac
		rm "$tower_file"
	done
}

# same_times FOLDER: all times become the channel's epoch.
same_times() {
	find "$1" -exec touch -hcd "@$TOWER_EPOCH" {} +
}

# digest TEXT...: 64 hexadecimal digits that depend on the words alone; ids of disks and file systems come from it.
digest() {
	printf '%s\n' "$@" "$TOWER_VERSION" "$TOWER_CHANNEL" "$TOWER_TARGET" | sha256sum | cut -c 1-64
}

# uuid TEXT...: the same as a UUID (version 8: made by our own rule).
uuid() {
	digest "$@" | sed -E 's/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*/\1-\2-8\3-8\4-\5/'
}
