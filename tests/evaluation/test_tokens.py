import numpy as np
import pytest

from audiocodec.evaluation.tokens import TokenStatistics


def test_uniform_codes_have_all_bits_and_constant_ones_none():
    statistics = TokenStatistics(2, 4, 50.0)
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 4, 40000), np.full(40000, 2)])
    statistics.add(codes)
    found = statistics.compute(2)
    assert found['frames'] == 40000
    assert found['usage'] == [1.0, 0.25]
    assert found['entropy'] == [pytest.approx(2.0, abs=1e-3), pytest.approx(0.0)]
    assert found['perplexity'] == [pytest.approx(4.0, abs=0.01), pytest.approx(1.0)]
    assert found['conditional_entropy'] == [pytest.approx(2.0, abs=1e-3), pytest.approx(0.0)]
    assert found['entropy_kbps'] == pytest.approx(2.0 * 50 / 1000, abs=1e-3)


def test_codes_that_follow_from_the_frame_before_cost_nothing_given_it():
    statistics = TokenStatistics(1, 4, 50.0)
    statistics.add(np.tile([0, 1, 2, 3], 1000)[None].astype(np.uint16))
    found = statistics.compute(1)
    assert found['entropy'] == [pytest.approx(2.0)]
    assert found['conditional_entropy'] == [pytest.approx(0.0, abs=1e-9)]


def test_items_are_not_followed_by_each_other():
    """Frames 0 0 0 and 1 1 1: the code before tells the code, unless items are concatenated."""
    statistics = TokenStatistics(1, 2, 50.0)
    for code in (0, 1, 0, 1):
        statistics.add(np.full((1, 3), code))
    assert statistics.compute(1)['conditional_entropy'] == [pytest.approx(0.0, abs=1e-9)]
