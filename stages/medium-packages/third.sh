# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154 # the real programs, $apk and $sign, are set by whoever sources this
# What mkimage.sh calls of apk and abuild, for packages and indexes of the third format as well.

# is_third FILE: is it a file of the third format?
is_third() {
	[ "$(head -c 3 "$1" | tr -d '\0')" = ADB ]
}

# call_apk ARGS...: apk, but `index` writes an index of the third format if one of the packages has it, since apk's own
# refuses to read those; and `fetch --stdout` gives every package as a tar archive.
call_apk() {
	case " $* " in
	" index "*)
		for word; do
			case $word in
			*.apk)
				if is_third "$word"; then
					shift
					exec python3 /stage/medium_index.py write "$@"
				fi
				;;
			esac
		done
		;;
	*" fetch "*" --stdout "*)
		fetched=$(mktemp -d /work/third/fetch.XXXXXX) || return 1
		"$apk" "$@" >"$fetched/package" || return 1
		if is_third "$fetched/package"; then
			mkdir "$fetched/files" &&
				"$apk" --keys-dir /in/keys --no-network extract --destination "$fetched/files" "$fetched/package" >&2 &&
				(cd "$fetched/files" && tar -cz -- *) || return 1
		else
			cat "$fetched/package" || return 1
		fi
		rm -r "$fetched"
		return
		;;
	esac
	exec "$apk" "$@"
}

# call_abuild_sign FILE: sign an index, unless it is of the third format, which was signed when it was written.
call_abuild_sign() {
	for word; do
		[ ! -f "$word" ] || ! is_third "$word" || exit 0
	done
	exec "$sign" "$@"
}
