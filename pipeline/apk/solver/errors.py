# SPDX-License-Identifier: Apache-2.0
"""The error of a world that has no solution; apart, so that nobody needs the solver to catch it."""

from __future__ import annotations

from pipeline.base.errors import FactoryError


class UnsolvableError(FactoryError):
    """No set of packages fulfils the world: change the world, or the indexes."""
