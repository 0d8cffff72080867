#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The menu entries of a host's packages. `tower` sends this script along with each use: nothing of it is installed on a host.
#
#   entries   its `.desktop` files: a line `file ID SIZE` and the bytes for each, then `end`
#   icons     stdin has lines `NUMBER PROGRAM TRIED ICON` (`-` for none): for each program that is there, a line `icon NUMBER SIZE`
#             and the bytes of a PNG file, SIZE 0 if there is none; `gone NUMBER` for the others; then `end`
set -u
LC_ALL=C
export LC_ALL
most_files=500 most_entry=131072 most_icon=524288 most_bytes=8388608
themes='hicolor Adwaita' contexts='apps legacy devices categories'
sizes='48x48 64x64 96x96 72x72 128x128 192x192 256x256 512x512 40x40 36x36 32x32 24x24 22x22 16x16'
sent=0

# size_of FILE MOST: set `size`; fails for what is no file, or too large, or more than all may have together.
size_of() {
	[ -f "$1" ] && [ -r "$1" ] && size=$(wc -c <"$1") && [ "$size" -gt 0 ] && [ "$size" -le "$2" ] &&
		[ $((sent + size)) -le $most_bytes ] && sent=$((sent + size))
}

entries() {
	find /usr/local/share/applications/ /usr/share/applications/ -maxdepth 3 -name '*.desktop' 2>/dev/null | sort | {
		count=0
		while IFS= read -r file; do
			id=${file#*/applications/} id=${id%.desktop}
			case $id in
			*/*) id=$(printf %s "$id" | tr / -) ;;
			esac
			case $id in
			*[!A-Za-z0-9_.+-]*) continue ;;
			esac
			[ $((count += 1)) -le $most_files ] || break
			size_of "$file" $most_entry || continue
			echo "file $id $size"
			head -c "$size" <"$file"
		done
	}
	echo end
}

# found_icon NAME: set `icon` to a PNG file.
found_icon() {
	case $1 in
	/*)
		icon=$1
		[ -f "$icon" ]
		return
		;;
	esac
	for theme in $themes; do
		for folder in /usr/local/share/icons /usr/share/icons; do
			[ -d "$folder/$theme" ] || continue
			for context in $contexts; do
				for side in $sizes; do
					icon=$folder/$theme/$side/$context/$1.png
					[ ! -f "$icon" ] || return 0
				done
			done
		done
	done
	icon=/usr/share/pixmaps/$1.png
	[ -f "$icon" ]
}

icons() {
	while read -r number program tried name; do
		if ! command -v -- "$program" || { [ "$tried" != - ] && ! command -v -- "$tried"; }; then
			echo "gone $number" >&3
		elif [ "$name" != - ] && found_icon "$name" && size_of "$icon" $most_icon; then
			echo "icon $number $size" >&3
			head -c "$size" <"$icon" >&3
		else
			echo "icon $number 0" >&3
		fi
	done 3>&1 >/dev/null
	echo end
}

case $1 in
entries) entries ;;
icons) icons ;;
esac
