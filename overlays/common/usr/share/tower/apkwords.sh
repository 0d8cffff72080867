# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# apk's words, by the same rules as on the thin client: these expressions are those of runtime/install/apkwords.py, word for word,
# which says what they mean. Sourced by programs that have set LC_ALL=C.

apk_name='([A-Za-z0-9_][]A-Za-z0-9_.+,![-]*(:[]A-Za-z0-9_.+:,/![-]*)?|/[A-Za-z0-9_][]A-Za-z0-9_+:,/![-]*)'
apk_tag='[]A-Za-z0-9_.+:,[-]+'
apk_version='[A-Za-z0-9][A-Za-z0-9_.]*(~[0-9a-f]+)?(-r[0-9]+)*'
apk_wanted="$apk_name(@$apk_tag)?([<>=~]+$apk_version)?"
apk_file='[A-Za-z0-9_][A-Za-z0-9_.+~-]*'
apk_longest=250
apk_too_long='[^ ]{251}'

# is_wanted WORD: whether `apk add` may be told to add that
is_wanted() {
	[ "${#1}" -le "$apk_longest" ] || return 1
	case $1 in
	*.apk* | *'
'*) return 1 ;;
	esac
	printf '%s\n' "$1" | grep -Exq -e "$apk_wanted"
}

# lay_nowhere FOLDER ARCH WORLD: a repository that holds nothing, under each tag that the words of WORLD have; prints the
# list of them. Without a tag that is wanted apk does not even remove a package, and apk 3 wants its index, too.
lay_nowhere() {
	mkdir -p "$1/$2"
	: >"$1/$2/APKINDEX"
	tar -czf "$1/$2/APKINDEX.tar.gz" -C "$1/$2" APKINDEX
	awk '{ for (i = 1; i <= NF; i++) if (sub(/^[^@]*@/, "@", $i)) { sub(/[<>=~].*/, "", $i); print $i } }' "$3" |
		sort -u | while IFS= read -r apk_one; do
		printf '%s %s\n' "$apk_one" "$1"
	done
}
