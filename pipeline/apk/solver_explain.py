# SPDX-License-Identifier: Apache-2.0
"""Why a world cannot be solved, in the words of a person."""

from __future__ import annotations


def missing(solver, wanted, by):
    return f"{by} wants {wanted}, which no package provides"


def explain(solver, world, problems):
    return "\n".join(str(p) for p in problems)


def unselected(solver, name, chosen):
    return f"{name} unselected"
