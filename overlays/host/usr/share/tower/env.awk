# SPDX-License-Identifier: Apache-2.0
# Reads a host's tower.env and prints NAME=value for each setting; refuses whatever `tower provision` would not have written.
# No value is ever evaluated, and none is shown. The forms are those of runtime/hosts/env.py and runtime/base/names.py.

function refuse(text) {
	print text >"/dev/stderr"
	refused = 1
	exit 1
}

BEGIN {
	count = split("HOSTNAME USERNAME PUBLIC_KEY PASSWORD_HASH KEYBOARD_LAYOUT KEYBOARD_VARIANT TIMEZONE LANG ONLINE " \
		"WLAN_SSID_HEX WLAN_SHARED_KEY THIN_CLIENT_IP TOWER_NETWORK STATIC_HOST_IP ROUTER_IP INSTALLATION_TYPE COLOR " \
		"ALPINE_BRANCH ENCRYPTION", names, " ")
	form["HOSTNAME"] = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
	form["USERNAME"] = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}"
	form["PUBLIC_KEY"] = "ssh-ed25519 [A-Za-z0-9+/]{68}( [A-Za-z0-9@._-]{1,128})?"
	form["PASSWORD_HASH"] = "[$][6y][$][A-Za-z0-9./$=,]{20,200}"
	form["KEYBOARD_LAYOUT"] = form["KEYBOARD_VARIANT"] = "[a-z][A-Za-z0-9_-]{0,31}"
	form["TIMEZONE"] = "[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*){0,2}"
	form["LANG"] = "(C|POSIX|[a-z]{2,3}(_[A-Z]{2})?)([.][A-Za-z0-9-]{1,16})?(@[a-z]{1,16})?"
	form["ONLINE"] = "true|false"
	form["WLAN_SSID_HEX"] = "(([0-9a-f]{2}){1,32})?"
	form["WLAN_SHARED_KEY"] = "([0-9a-f]{64})?"
	form["THIN_CLIENT_IP"] = form["STATIC_HOST_IP"] = "192[.]168[.][23][.][0-9]{1,3}"
	form["TOWER_NETWORK"] = "192[.]168[.][23][.]0/24"
	form["ROUTER_IP"] = "(192[.]168[.]2[.]1)?"
	form["INSTALLATION_TYPE"] = "install|upgrade"
	form["COLOR"] = "#[0-9a-f]{6}"
	form["ALPINE_BRANCH"] = "[a-z0-9][a-z0-9.-]{0,31}"
	form["ENCRYPTION"] = "required|none"
}

{
	if ($0 !~ /^[A-Z_]+='([^']|'\\'')*'$/) refuse("line " NR " is not NAME='value'")
	name = substr($0, 1, index($0, "=") - 1)
	text = substr($0, length(name) + 3, length($0) - length(name) - 3)
	gsub(/'\\''/, "'", text)
	if (!(name in form)) refuse("line " NR ": " name " is not known")
	if (name in value) refuse("line " NR ": " name " is there twice")
	if (text !~ "^(" form[name] ")$") refuse("line " NR ": " name " has not the form that it must have")
	value[name] = text
}

function must(name, wanted) {
	if (value[name] != wanted) refuse(name " does not fit the other settings")
}

END {
	if (refused) exit 1
	missing = ""
	# Files of earlier versions have no ENCRYPTION.
	if (!("ENCRYPTION" in value)) value["ENCRYPTION"] = "required"
	for (i = 1; i <= count; i++) if (!(names[i] in value)) missing = missing " " names[i]
	if (missing != "") refuse("there is no" missing)

	host = value["HOSTNAME"]
	if (host == "thinclient" || host == "localhost" || host == "all") refuse("HOSTNAME is a name that is not for a host")
	if (value["USERNAME"] ~ /^[0-9]+$/) refuse("USERNAME is a number")
	router = host == "router"
	online = value["ONLINE"] == "true"
	if (router && !online) refuse("the router must be online")
	network = online ? "192.168.2" : "192.168.3"
	must("TOWER_NETWORK", network ".0/24")
	must("THIN_CLIENT_IP", network ".100")
	must("ROUTER_IP", online ? "192.168.2.1" : "")
	number = substr(value["STATIC_HOST_IP"], length(network) + 2)
	if (router) must("STATIC_HOST_IP", "192.168.2.1")
	else if (number !~ /^[0-9]+$/ || number < 200 || number > 254) refuse("STATIC_HOST_IP is not one of a host's addresses")
	else must("STATIC_HOST_IP", network "." number)
	if ((value["WLAN_SSID_HEX"] != "") != router || (value["WLAN_SHARED_KEY"] != "") != router)
		refuse("the router, and it alone, has a Wi-Fi network")
	for (i = 1; i <= count; i++) print names[i] "=" value[names[i]]
}
