# SPDX-License-Identifier: Apache-2.0
"""One module a command; `tower.cli` says what each offers."""
