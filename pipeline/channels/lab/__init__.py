# SPDX-License-Identifier: Apache-2.0
"""The lab: a mirror in Alpine's shape, made on the spot of Alpine's own base and of converted Debian packages.

Alpine's part, in the order of its flow: base (the pinned wheel) -> installed (its packages, checked) -> minirootfs -> repack
(kept by what they were made from). Debian's part: debian (where it is) -> apt (closures, verified by apt) -> deb (reading) ->
catalog and assemble (what becomes what) -> convert, with beside, scan, kernel and keymaps -> conversions. `mirror` lays both
into a signed repository.
"""
