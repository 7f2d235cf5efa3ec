import numpy as np
import pytest

from audiocodec.evaluation.summary import interval, summarize


def rows(system, values, rate=3.0, **more):
    return [
        {
            'system': system,
            'rate': rate,
            'item': item,
            'seconds': 2.0,
            'kbps': 3.0 + item,
            'encode_seconds': 0.1,
            'decode_seconds': 0.0,
            'mel': value,
            **more,
        }
        for item, value in enumerate(values)
    ]


def test_means_medians_and_rates():
    (found,) = summarize(rows('a', [1.0, 2.0, 6.0]), ['mel'])
    assert found['mel'] == 3.0
    assert found['mel_median'] == 2.0
    assert found['items'] == 3
    assert found['kbps'] == pytest.approx(4.0)
    assert found['encode_speed'] == pytest.approx(20.0)
    assert found['decode_speed'] is None
    assert found['mel_low'] < 3.0 < found['mel_high']
    assert found['mel_unscored'] == 0


def test_items_without_a_score_are_counted_and_not_part_of_the_mean():
    (found,) = summarize(rows('a', [1.0, None, 3.0]), ['mel', 'pesq'])
    assert (found['mel'], found['mel_unscored']) == (2.0, 1)
    assert 'pesq' not in found
    (found,) = summarize(rows('a', [None]), ['mel'])
    assert (found['mel'], found['mel_low'], found['mel_unscored']) == (None, None, 1)


def test_differences_are_paired_by_item():
    easy, hard = [1.0, 2.0, 3.0, 40.0], [1.5, 2.5, None, 40.5]
    every = [*rows('base', easy), *rows('other', hard)]
    base, other = summarize(every, ['mel'], ('base', 3.0))
    assert other['mel_difference'] == 0.5
    assert (other['mel_difference_low'], other['mel_difference_high']) == (0.5, 0.5)
    assert base['mel_difference'] == 0.0


def test_an_unknown_baseline_is_named():
    with pytest.raises(ValueError, match=r'baseline b@6: expected one of a@3$'):
        summarize(rows('a', [1.0]), ['mel'], ('b', 6.0))


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(400, 40))
    ends = [interval(sample, 500) for sample in samples]
    covered = np.mean([low <= 0 <= high for low, high in ends])
    assert 0.90 < covered < 0.98
    width = np.mean([high - low for low, high in ends])
    assert width == pytest.approx(2 * 1.96 / 40**0.5, rel=0.05)


def test_the_interval_is_the_same_every_time_also_in_blocks(monkeypatch):
    values = np.arange(50.0)
    expected = interval(values)
    assert interval(values) == expected
    monkeypatch.setattr('audiocodec.evaluation.summary._BLOCK', 100)
    assert interval(values) == pytest.approx(expected, rel=0.05)
    assert interval(np.array([])) == (None, None)
