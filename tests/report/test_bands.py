import numpy as np
import pytest

from audiocodec.report import bands
from audiocodec.report.collect import Run
from audiocodec.utils import paths


def run(values, metric='mel', updates=None):
    updates = [10 * (n + 1) for n in range(len(values))] if updates is None else updates
    return Run('run', updates, {'valid': {metric: list(values)}})


def band(count=4, epochs=6, seed=0):
    rng = np.random.default_rng(seed)
    curves = 2.0 + 0.1 * rng.standard_normal((count, epochs))
    return bands.make_band('tiny', 'abc', [run(curve) for curve in curves], {'data': 'noise'})


def test_a_band_is_three_deviations_around_the_mean():
    made = bands.make_band('tiny', 'abc', [run([1.0] * 5), run([2.0] * 5)], {})
    low, high = made.edges['valid/mel']
    assert low == pytest.approx([1.5 - 3 * 0.5**0.5] * 5)
    assert high == pytest.approx([1.5 + 3 * 0.5**0.5] * 5)
    assert list(made.edges) == ['valid/mel']


def test_it_holds_another_run_of_the_same_kind_and_not_one_that_fails():
    inside = outside = 0
    for seed in range(200):
        rng = np.random.default_rng(1000 + seed)
        made = band(seed=seed)
        (check,) = bands.check(made, run(2.0 + 0.1 * rng.standard_normal(6)))
        inside += check.is_inside
        (check,) = bands.check(made, run([2.0] * 5 + [3.0]))
        outside += not check.is_inside
    assert inside >= 190
    assert outside == 200


def test_the_last_common_epoch_counts():
    (check,) = bands.check(band(), run([2.0, 2.0, None]))
    assert (check.key, check.updates, check.value) == ('valid/mel', 20, 2.0)
    assert bands.check(band(), run([2.0], updates=[7])) == []
    assert bands.check(band(), run([2.0], 'other')) == []


def test_a_band_is_written_and_read_back(tmp_path):
    made = band()
    bands.save(made, tmp_path / 'bands' / 'tiny.json')
    read = bands.load(tmp_path / 'bands' / 'tiny.json')
    assert read[:4] == ('tiny', 'abc', {'data': 'noise'}, made.updates)
    for key, edges in made.edges.items():
        np.testing.assert_allclose(read.edges[key], edges, rtol=1e-4)


def test_runs_of_different_length_make_no_band():
    with pytest.raises(ValueError, match='at least two runs with the same numbers of updates'):
        bands.make_band('tiny', 'abc', [run([1.0]), run([1.0, 2.0])], {})
    with pytest.raises(ValueError, match='at least two runs'):
        bands.make_band('tiny', 'abc', [run([1.0])], {})


SHIPPED = sorted((paths.ROOT / 'config' / bands.FOLDER).glob('*.json'))


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_shipped_bands_say_how_they_were_made(path):
    shipped = bands.load(path)
    assert bands.find(shipped.sig) == shipped
    assert {'command', 'runs', 'data', 'machine', 'date'} == shipped.facts.keys()
    assert shipped.facts['runs'] >= 3
    assert set(shipped.edges) == set(bands.KEYS)
    for low, high in shipped.edges.values():
        assert len(low) == len(high) == len(shipped.updates)
        assert all(a <= b for a, b in zip(low, high))
