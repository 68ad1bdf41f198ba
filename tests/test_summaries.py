import pytest

from seqlib import stats, summaries


@pytest.mark.parametrize("values, told", [([2.0], "2.0"), ([2.0, 4.0], "3.0 (2.0 to 4.0)"),
                                          ([1.0, 2.0, 3.0, 4.0, 5.0], "3.0 (1.0 to 5.0)")])
def test_too_few_seeds_show_their_range(values, told):
    assert summaries.interval(values) == told


def test_enough_seeds_show_an_interval():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]
    low, high = stats.bca_interval(values)
    assert summaries.interval(values, 2) == f"4.00 [{low:.2f}, {high:.2f}]"
