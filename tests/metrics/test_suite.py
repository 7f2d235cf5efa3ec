import logging
import os
import pickle
import subprocess
import sys

import pytest
import torch
from noise import noise, noisy
from torch import distributed

from audiocodec.dsp import si_snr
from audiocodec.metrics import SISNR, MeanMetric, MelDistance, Metric, MetricSuite


class Failing(MeanMetric):
    name = 'failing'

    def measure(self, estimate, reference, lengths=None):
        raise RuntimeError('broken')


class Sometimes(MeanMetric):
    name = 'sometimes'

    def measure(self, estimate, reference, lengths=None):
        if reference[0, 0, 0] < 0:
            raise RuntimeError('negative')
        return reference[:, 0, 0]


class FailsLater(MeanMetric):
    """Fails in `add` and in `partial`."""

    name = 'later'

    def measure(self, estimate, reference, lengths=None):
        return 'not a tensor'

    def partial(self):
        raise ZeroDivisionError('no items')


class Pair(Metric):
    def measure(self, estimate, reference, lengths=None):
        return torch.stack([estimate.max(), reference.max()])

    def add(self, measured):
        self.measured = measured

    def partial(self):
        return self.measured

    def combine(self, partials):
        return dict(zip(['estimate', 'reference'], torch.stack(list(partials)).amax(0).tolist()))

    def reset(self):
        del self.measured


def test_values_are_reported_under_the_names_of_the_suite():
    suite = MetricSuite({'coarse': SISNR(8000, segment=None), 'peak': Pair()})
    estimate, reference = noisy(10.0, 2, 1, 8000)
    suite.update(estimate, reference)
    values = suite.compute()
    assert list(values) == ['coarse', 'peak_estimate', 'peak_reference']
    assert values['coarse'] == pytest.approx(10.0, abs=0.2)
    assert values['peak_estimate'] == estimate.max().item()
    suite.metrics.pop('peak')
    suite.reset()
    assert suite.compute() == {}


def test_a_failing_metric_is_reported_once_and_does_not_affect_others(caplog):
    suite = MetricSuite({'bad': Failing(), 'some': Sometimes(), 'sisnr': SISNR(8000)})
    wav = noise(2, 1, 8000)
    with caplog.at_level(logging.WARNING):
        for sign in (1.0, -1.0, 1.0):
            suite.update(wav, sign * wav.abs())
    assert [record.getMessage() for record in caplog.records] == [
        'metric bad failed, the run continues: RuntimeError: broken',
        'metric some failed, the run continues: RuntimeError: negative',
    ]
    assert suite.failures.counts == {'metric bad': 3, 'metric some': 1}
    values = suite.compute()
    assert list(values) == ['some', 'sisnr']
    assert values['some'] == pytest.approx(wav[:, 0, 0].abs().mean().item())


def test_a_metric_that_fails_in_add_and_compute_does_not_affect_others(caplog):
    suite = MetricSuite({'later': FailsLater(), 'sisnr': SISNR(8000)})
    suite.update(*noisy(10.0, 2, 1, 8000))
    assert list(suite.compute()) == ['sisnr']
    assert [record.levelname for record in caplog.records] == ['WARNING']
    assert suite.failures.counts == {'metric later': 2}


def test_measuring_a_pickled_copy_and_adding_equals_an_update():
    suite, other = (MetricSuite({'sisnr': SISNR(8000), 'mel': MelDistance(8000)}) for _ in range(2))
    batch = noisy(10.0, 2, 1, 8000)
    suite.update(*batch)
    other.add(pickle.loads(pickle.dumps(other)).measure(*batch))
    assert suite.compute() == other.compute()


class FailsOnWorker1(SISNR):
    """Fails in one of its methods, on worker 1 only."""

    def __init__(self, where):
        super().__init__(8000, segment=1.0)
        self.where = where

    def fail(self, where):
        if where == self.where and distributed.get_rank() == 1:
            raise RuntimeError(f'cannot {where}')

    def partial(self):
        self.fail('partial')
        if self.where == 'pickle' and distributed.get_rank() == 1:
            return lambda: None
        return super().partial()

    def combine(self, partials):
        self.fail('combine')
        return super().combine(partials)

    def reset(self):
        if distributed.is_initialized():
            self.fail('reset')
        super().reset()


@pytest.mark.slow
def test_results_and_failures_of_two_workers_are_combined(tmp_path):
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}  # for tests/support
    workers = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=env)
        for rank in range(2)
    ]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    estimate, reference = noisy(10.0, 3, 1, 8000)
    (first, failed), (second, failed_second) = (
        torch.load(tmp_path / f'{rank}.th') for rank in range(2)
    )
    expected = ['bad', 'combine', 'partial', 'pickle', 'reset', 'some']
    assert failed == failed_second == [f'metric {name}' for name in expected]
    # Worker 0 could combine what worker 1 could not.
    assert first.pop('combine') == first['sisnr']
    assert first == second
    assert list(first) == ['reset', 'some', 'sisnr']
    # Worker 1, with the negative item, has no score of this metric: the mean is that of worker 0.
    assert first['some'] == pytest.approx(reference[:2, 0, 0].abs().mean().item())
    assert first['sisnr'] == pytest.approx(si_snr(estimate, reference, 8000).mean().item())


def _work(rank, folder):
    metrics = {where: FailsOnWorker1(where) for where in ('partial', 'pickle', 'combine', 'reset')}
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    suite = MetricSuite(
        {'bad': Failing(), **metrics, 'some': Sometimes(), 'sisnr': SISNR(8000, segment=1.0)}
    )
    suite.reset()
    estimate, reference = noisy(10.0, 3, 1, 8000)
    sign = -reference[2, 0, 0].sign() if rank else reference[:2, 0, :1].sign()[..., None]
    items = slice(2, 3) if rank else slice(0, 2)
    suite.update(sign * estimate[items], sign * reference[items])
    values = suite.compute()
    suite.failures.sync()
    torch.save((values, sorted(suite.failures.reasons)), f'{folder}/{rank}.th')
    distributed.destroy_process_group()


def test_higher_is_better_is_that_of_the_metric():
    suite = MetricSuite({'sisnr': SISNR(8000), 'sisnr_mel': MelDistance(8000), 'pair': Pair()})
    keys = ['sisnr', 'sisnr_mel', 'pair_estimate', 'other']
    assert [suite.higher_is_better(key) for key in keys] == [True, False, False, False]


if __name__ == '__main__':
    _work(int(sys.argv[1]), sys.argv[2])
