# SPDX-License-Identifier: Apache-2.0
"""The Alpine package format, versions 2 and 3: packages, indexes, signatures, versions, the database of what is installed.

Everything foreign that the factory takes in passes through here, and everything it publishes for `apk` is written
here. Reading uses the standard library alone, so that the lab's own `apk` is made of the same modules.
`python -m pipeline.apk` is the command.
"""
