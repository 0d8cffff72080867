# SPDX-License-Identifier: Apache-2.0
"""The command line of the factory: doit's settings, its tasks and its reporters."""
