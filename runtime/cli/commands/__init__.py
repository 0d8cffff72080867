# SPDX-License-Identifier: Apache-2.0
"""One module a command; `tower.cli.main` says what each offers."""
