# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes come, each parser gives a value or one of our errors: a few hundred mutations of a good sample."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.parsers import PARSERS, Parser, fails, mutations


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_mutations(parser: Parser) -> None:
    parser.read(parser.sample)
    for data in itertools.islice(mutations(parser.sample, 7), 300):
        assert not fails(parser, data), data
