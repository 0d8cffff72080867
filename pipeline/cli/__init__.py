# SPDX-License-Identifier: Apache-2.0
"""The command line of the factory: what doit is told, and what the user sees."""
