# SPDX-License-Identifier: Apache-2.0
"""The lab's `apk`: the command lines, files and messages of apk-tools 2.14 over `pipeline.apk`.

It is laid into the package apk-tools together with `pipeline.apk` and runs on the device, in the builder and in the
initramfs, with nothing but Python's standard library and the `openssl` command. The order of the modules is
options -> database + repository -> solver -> changes -> commit -> extract; `queries` and `tools` only look.
Imports are late on purpose: every module costs time where a machine is emulated.
"""
