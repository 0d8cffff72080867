#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Make images of a profile, as Alpine's mkimage.sh does: the same command line, and the same contract
# for plugins. A plugin is a file mkimg.<name>.sh beside this one or in ~/.mkimage; it defines
#   profile_NAME         sets the variables of an image (arch, image_ext, apks, kernel_flavors, ...)
#   section_NAME         calls `build_section NAME ARGS`, where ARGS tell one content from another
#   build_NAME ARGS      makes the section below $DESTDIR
#   create_image_FORMAT  makes the image of all sections, which are merged below $DESTDIR
# A section is kept in the working folder under its name and arguments, and made once.
set -eu

scriptdir=$(cd "$(dirname "$0")" && pwd)

sharedir=${ABUILD_SHAREDIR:-/usr/share/abuild}
if [ ! -e "$sharedir/functions.sh" ]; then
	echo "mkimage: $sharedir/functions.sh is missing: install abuild" >&2
	exit 1
fi
# abuild's functions expect variables that may be unset, and so may plugins.
set +u
# shellcheck source=/dev/null
. "$sharedir/functions.sh"

all_sections=""
all_profiles=""
all_checksums="sha256 sha512"
all_arches="x86_64 aarch64"
# The day of the sources when there is one: an image does not depend on the day it was made.
build_date=$(date -u ${SOURCE_DATE_EPOCH:+-d "@$SOURCE_DATE_EPOCH"} +%y%m%d)
default_arch=$(apk --print-arch)
OUTDIR=$PWD
RELEASE=""
WORKDIR=${WORKDIR:-}
REPODIR=""
EXTRAREPOS=""
req_arch=""
req_profiles=""
_hostkeys=""
_simulate=""
_checksum=""
_temporary=""

msg() {
	[ -z "$quiet" ] || return 0
	printf '>>> mkimage%s: %s\n' "${ARCH:+-$ARCH}" "$1" >&2
}

fail() {
	printf 'mkimage: %s\n' "$1" >&2
	exit 1
}

usage() {
	cat <<-EOF
	usage: mkimage.sh [OPTIONS]

	 --arch ARCH              architecture, or "all" (default: $default_arch)
	 --profile NAMES          profiles, or "all"
	 --repository URL         repository of packages
	 --extra-repository URL   one more; may be repeated
	 --tag RELEASE            version in names and labels (default: the day)
	 --outdir DIR             folder of the images (default: this one)
	 --workdir DIR            folder of the sections; keep it and only what changed is made
	 --hostkeys               trust this machine's apk keys on the image
	 --simulate               say what would be made
	 --checksum               write $all_checksums beside each image

	Profiles: $(echo "$all_profiles" | tr ' ' '\n' | sort -u | tr '\n' ' ')

	Example: mkimage.sh --profile base --arch x86_64 --repository /repository/main --outdir /tmp/images
	EOF
}

# list_has WORD LIST...: is it in the list?
list_has() {
	local word="$1" item
	shift
	for item; do
		[ "$word" != "$item" ] || return 0
	done
	return 1
}

checksum() {
	sha1sum | cut -d ' ' -f 1
}

# A plugin's profiles and sections are found by the lines that define them.
load_plugins() {
	local file
	for file in "$1"/mkimg.*.sh; do
		[ -e "$file" ] || continue
		all_profiles="$all_profiles $(sed -n 's/^profile_\([a-zA-Z0-9_]*\)() *{.*/\1/p' "$file" | tr '\n' ' ')"
		all_sections="$all_sections $(sed -n 's/^section_\([a-zA-Z0-9_]*\)() *{.*/\1/p' "$file" | tr '\n' ' ')"
	done
	for file in "$1"/mkimg.*.sh; do
		[ -e "$file" ] || continue
		# shellcheck source=/dev/null
		. "$file"
	done
}

# build_section NAME ARGS...: make a section unless it is there, and note it for the image
build_section() {
	local section="$1" folder
	# A folder's name has a limit of 255: long lists end in their checksum.
	folder=$(printf '%s' "$*" | sed 's/[^a-zA-Z0-9]/_/g')
	if [ "${#folder}" -gt 200 ]; then
		folder=$(printf '%s' "$folder" | cut -c 1-150)_$(printf '%s' "$*" | checksum)
	fi
	shift
	if [ ! -e "$WORKDIR/$folder" ]; then
		msg "--> $section $*"
		if [ -z "$_simulate" ]; then
			DESTDIR=$WORKDIR/$folder.work
			rm -rf "$DESTDIR"
			mkdir -p "$DESTDIR"
			if ! "build_$section" "$@"; then
				rm -rf "$DESTDIR"
				_fail=yes
				printf 'mkimage: the section %s failed\n' "$section" >&2
				return 1
			fi
			# Only a whole section gets the name under which it is found again.
			mv "$DESTDIR" "$WORKDIR/$folder"
			_dirty=yes
		fi
	fi
	unset DESTDIR
	_my_sections="$_my_sections $folder"
}

# Lay all sections into one tree. Files are linked: they are large, and the tree is for reading.
merge_sections() {
	local folder entry
	rm -rf "$DESTDIR"
	mkdir -p "$DESTDIR"
	for folder in $_my_sections; do
		for entry in "$WORKDIR/$folder"/* "$WORKDIR/$folder"/.[!.]*; do
			[ -e "$entry" ] || continue
			cp -al "$entry" "$DESTDIR/" 2> /dev/null || cp -a "$entry" "$DESTDIR/" || return 1
		done
	done
	echo "$image_name-$RELEASE $build_date" > "$DESTDIR/.alpine-release"
	if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
		find "$DESTDIR" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	fi
}

build_profile() {
	local section file sum made
	_my_sections=""
	_dirty=no
	_fail=no

	"profile_$PROFILE"
	# shellcheck disable=SC2086,SC2154 # a list, set by the profile
	list_has "$ARCH" $arch || return 0
	msg "Building $PROFILE"

	for section in $all_sections; do
		"section_$section" || return 1
	done
	[ "$_fail" = no ] || return 1
	[ -z "$_simulate" ] || return 0

	image_name=${image_name:-alpine-$PROFILE}
	output_filename=${output_filename:-$image_name-$RELEASE-$ARCH.$image_ext}
	file=$OUTDIR/$output_filename
	# shellcheck disable=SC2086 # a list
	DESTDIR=$WORKDIR/image-$(printf '%s\n' $_my_sections | sort | checksum)-$ARCH-$PROFILE
	# An image of that name may be one of other sections: what it was made of is noted.
	made=$WORKDIR/made-$output_filename
	if [ "$_dirty" = no ] && [ -e "$file" ] && [ "$(cat "$made" 2> /dev/null)" = "$DESTDIR" ]; then
		msg "$output_filename is there"
		return 0
	fi
	msg "Creating $output_filename"
	merge_sections || return 1
	rm -f "$file" "$made"
	if ! "create_image_$(printf '%s' "$image_ext" | tr -d ':.')"; then
		rm -f "$file"
		return 1
	fi
	echo "$DESTDIR" > "$made"
	if [ "$_checksum" = yes ]; then
		for sum in $all_checksums; do
			(cd "$OUTDIR" && "${sum}sum" "$output_filename" > "$output_filename.$sum")
		done
	fi
}

# A root in which apk finds the repositories; packages are only fetched with it, never installed.
prepare_apkroot() {
	local repo
	APKROOT=$WORKDIR/apkroot-$ARCH
	if [ ! -e "$APKROOT" ]; then
		mkdir -p "$APKROOT/etc/apk/cache" "$APKROOT/etc/apk/keys"
		cp -R /etc/apk/keys/. "$APKROOT/etc/apk/keys/"
		abuild-apk --arch "$ARCH" --root "$APKROOT" add --initdb
		if [ -z "$REPODIR$EXTRAREPOS" ]; then
			printf 'mkimage: warning: no repository is set\n' >&2
		fi
		for repo in $REPODIR $EXTRAREPOS; do
			echo "$repo"
		done > "$APKROOT/etc/apk/repositories"
	fi
	abuild-apk update --root "$APKROOT"
}

needs_value() {
	[ "$2" -gt 0 ] || fail "$1 needs a value"
}

load_plugins "$scriptdir"
[ -z "${HOME:-}" ] || load_plugins "$HOME/.mkimage"

while [ $# -gt 0 ]; do
	option=$1
	shift
	case "$option" in
	--repository | --extra-repository | --workdir | --outdir | --tag | --arch | --profile)
		needs_value "$option" $#
		value=$1
		shift
		;;
	esac
	case "$option" in
	--repository) REPODIR=$value ;;
	--extra-repository) EXTRAREPOS="$EXTRAREPOS $value" ;;
	--workdir) WORKDIR=$value ;;
	--outdir) OUTDIR=$value ;;
	--tag) RELEASE=$value ;;
	--arch) req_arch=$value ;;
	--profile) req_profiles="$req_profiles $value" ;;
	--hostkeys) _hostkeys=--hostkeys ;;
	--simulate) _simulate=yes ;;
	--checksum) _checksum=yes ;;
	--help) usage; exit 0 ;;
	--) break ;;
	*)
		usage >&2
		fail "unknown option $option"
		;;
	esac
done

RELEASE=${RELEASE:-$build_date}
req_profiles=${req_profiles:-$all_profiles}
req_arch=${req_arch:-$default_arch}
[ "$req_arch" != all ] || req_arch=$all_arches
[ "$(echo "$req_profiles" | tr -d ' ')" != all ] || req_profiles=$all_profiles
for PROFILE in $req_profiles; do
	# shellcheck disable=SC2086 # a list
	list_has "$PROFILE" $all_profiles || fail "there is no profile $PROFILE (known:$all_profiles)"
done

if [ -z "$WORKDIR" ]; then
	WORKDIR=$(mktemp -d "${TMPDIR:-/tmp}/mkimage.XXXXXX")
	_temporary=$WORKDIR
	trap 'rm -rf "$_temporary"' EXIT
	trap 'exit 1' HUP INT TERM
fi
mkdir -p "$WORKDIR" "$OUTDIR"
WORKDIR=$(cd "$WORKDIR" && pwd)
OUTDIR=$(cd "$OUTDIR" && pwd)

# The key that signs the medium's own index is trusted by the initramfs, so that it may install from it.
_abuild_pubkey=""
if [ -z "$_hostkeys" ]; then
	_abuild_pubkey=${PACKAGER_PUBKEY:-${PACKAGER_PRIVKEY:+$PACKAGER_PRIVKEY.pub}}
fi

for ARCH in $req_arch; do
	prepare_apkroot
	for PROFILE in $req_profiles; do
		# Each in a shell of its own: variables of one profile do not reach the next.
		(build_profile) || fail "the profile $PROFILE failed"
	done
done
msg "images are in $OUTDIR"
