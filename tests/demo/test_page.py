"""The demo's arithmetic."""

import pytest

from optformer.demo.page import chance


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252),  # one of the two extreme deals of 252
        ([1, 2], [3, 4], 2 / 6),
        ([5, 5], [5, 5], 1.0),
    ],
)
def test_chance_counts_the_deals_that_differ_as_much(
    ours: list[float], theirs: list[float], expected: float
) -> None:
    assert chance(ours, theirs) == pytest.approx(expected)
    assert chance(theirs, ours) == pytest.approx(expected)
