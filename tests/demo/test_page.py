"""The statistics of the demo's report."""

import pytest

from optformer.demo.page import p_value


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252),  # the two extreme divisions of 252
        ([1, 2], [3, 4], 2 / 6),
        ([5, 5], [5, 5], 1.0),
    ],
)
def test_p_values_by_hand(ours: list[float], theirs: list[float], expected: float) -> None:
    assert p_value(ours, theirs) == pytest.approx(expected)
    assert p_value(theirs, ours) == pytest.approx(expected)
