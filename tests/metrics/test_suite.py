import logging
import os
import pickle
import sys

import pytest
import torch
from forked import Forked
from noise import noise, noisy
from torch import distributed

from audiocodec.metrics import (
    SISNR,
    MelDistance,
    Metric,
    MetricSuite,
    Score,
    UnscorableError,
    score_item,
)


class Failing(Metric):
    def score(self, estimate, reference, sample_rate):
        raise RuntimeError('broken')


class First(Metric):
    """First sample of the reference, which must not be negative."""

    def score(self, estimate, reference, sample_rate):
        if reference[0, 0] < 0:
            raise UnscorableError('negative')
        return reference[0, 0]


def test_means_are_over_items_and_under_the_names_of_the_suite():
    suite = MetricSuite({'coarse': SISNR(), 'first': First()})
    reference = torch.ones(3, 1, 8000) * torch.tensor([1.0, 2.0, 6.0]).view(3, 1, 1)
    reference = reference + 0.01 * noise(3, 1, 8000)
    reference[:, 0, 0] = torch.tensor([1.0, 2.0, 6.0])
    suite.update(reference[:2], reference[:2], 8000)
    suite.update(reference[2:], reference[2:], 8000)
    values = suite.compute()
    assert list(values) == ['coarse', 'first']
    assert values['first'] == 3.0
    suite.reset()
    assert suite.compute() == {}


def test_items_without_a_score_are_counted_and_not_part_of_the_mean(caplog):
    suite = MetricSuite({'first': First()})
    reference = torch.tensor([[[4.0]], [[-1.0]], [[2.0]]])
    suite.update(reference, reference, 8000)
    assert suite.compute() == {'first': 3.0, 'first_unscored': 1}
    assert caplog.records == []
    assert not suite.failures.counts


def test_a_failing_metric_is_reported_once_and_does_not_affect_others(caplog):
    suite = MetricSuite({'bad': Failing(), 'sisnr': SISNR()})
    with caplog.at_level(logging.WARNING):
        suite.update(*noisy(10.0, 2, 1, 8000), 8000)
        suite.update(*noisy(10.0, 1, 1, 8000), 8000)
    assert [record.getMessage() for record in caplog.records] == [
        'metric bad failed, the run continues: RuntimeError: broken'
    ]
    assert suite.failures.counts == {'metric bad': 3}
    values = suite.compute()
    assert list(values) == ['bad_unscored', 'sisnr']
    assert values['sisnr'] == pytest.approx(10.0, abs=0.3)


def test_scores_tell_a_failure_from_an_item_without_a_score():
    scores = score_item({'bad': Failing(), 'first': First()}, *-torch.ones(2, 1, 4), 8000)
    assert scores['bad'][1:] == ('RuntimeError: broken', True)
    assert scores['first'][1:] == ('negative', False)
    assert score_item({'first': First()}, *torch.ones(2, 1, 4), 8000) == {'first': Score(1.0)}


def test_scores_of_each_rate_have_a_suffix():
    suite = MetricSuite({'first': First()})
    suite.add({'first': Score(1.0)}, '_3kbps')
    suite.add({'first': Score(2.0)}, '_6kbps')
    suite.add({'first': Score(4.0)}, '_6kbps')
    assert suite.compute() == {'first_3kbps': 1.0, 'first_6kbps': 3.0}


def test_scoring_by_a_pickled_copy_and_adding_equals_an_update():
    suite, other = (MetricSuite({'sisnr': SISNR(), 'mel': MelDistance()}) for _ in range(2))
    estimate, reference = noisy(10.0, 2, 1, 8000)
    suite.update(estimate, reference, 8000)
    copy = pickle.loads(pickle.dumps(other))
    for item in range(2):
        scores = score_item(copy.metrics, estimate[item], reference[item], 8000)
        other.add(pickle.loads(pickle.dumps(scores)))
    assert suite.compute() == other.compute()


def test_sums_are_in_double_precision():
    suite = MetricSuite({})
    for _ in range(1000):
        suite.add({'small': Score(0.1)})
    assert suite.compute()['small'] == pytest.approx(0.1, rel=1e-12)


def test_higher_is_better_is_that_of_the_metric():
    suite = MetricSuite({'sisnr': SISNR(), 'sisnr_mel': MelDistance()})
    keys = ['sisnr', 'sisnr_3kbps', 'sisnr_mel', 'other']
    assert [suite.higher_is_better(key) for key in keys] == [True, True, False, False]


@pytest.mark.slow
def test_results_of_two_workers_are_combined(tmp_path):
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}  # for tests/support
    workers = [Forked([__file__, str(rank), str(tmp_path)], env=env) for rank in range(2)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    first, second = (torch.load(tmp_path / f'{rank}.th') for rank in range(2))
    assert first == second
    values, reasons = first
    assert reasons == ['metric bad']
    assert values.pop('bad_unscored') == 3
    # Worker 1, with the negative item, has no score of this metric: the mean is that of worker 0.
    assert values.pop('first') == 2.0
    assert values.pop('first_unscored') == 1
    assert values == {'only_here': 5.0}


def _work(rank, folder):
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    suite = MetricSuite({'bad': Failing(), 'first': First()})
    items = [torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[[-1.0]]])][rank]
    suite.update(items, items, 8000)
    if rank == 1:
        suite.add({'only_here': Score(5.0)})
    values = suite.compute()
    suite.failures.sync()
    torch.save((values, sorted(suite.failures.reasons)), f'{folder}/{rank}.th')
    distributed.destroy_process_group()


if __name__ == '__main__':
    _work(int(sys.argv[1]), sys.argv[2])
