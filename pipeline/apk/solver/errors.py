# SPDX-License-Identifier: Apache-2.0
"""The error of a world without a solution, in a module of its own, so that catching it does not load the solver."""

from __future__ import annotations

from pipeline.base.errors import FactoryError


class UnsolvableError(FactoryError):
    """No set of packages fulfils the world: change the world, or the indexes."""
