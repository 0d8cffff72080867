# SPDX-License-Identifier: Apache-2.0
"""The lab channel: a miniature distribution in Alpine's formats, made on the spot from Debian packages.

Reads in the order of the flow: mirror (where Debian is) -> apt (closures, verified by apt) -> pipeline.fetch into the
vault -> deb (reading) -> convert (to `.apk`) -> repository (signed index) -> builder.
"""
