import logging
import pickle
import subprocess
import sys

import pytest
import torch
from torch import distributed

from audiocodec.dsp.sisnr import si_snr
from audiocodec.losses import MelSpectrogramL1Loss
from audiocodec.metrics import SISNR, MeanMetric, MelDistance, Metric, MetricSuite


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noisy(db, *shape):
    reference = noise(*shape)
    return reference + 10 ** (-db / 20) * noise(*shape, seed=1), reference


class Failing(MeanMetric):
    name = 'failing'

    def measure(self, estimate, reference, lengths=None):
        raise RuntimeError('out of luck')


class Sometimes(MeanMetric):
    name = 'sometimes'

    def measure(self, estimate, reference, lengths=None):
        if reference[0, 0, 0] < 0:
            raise RuntimeError('negative')
        return reference[:, 0, 0]


class Lopsided(MeanMetric):
    name = 'lopsided'

    def measure(self, estimate, reference, lengths=None):
        return 'no tensor'

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


def test_sisnr_is_positive_db_for_a_good_estimate():
    metric = SISNR(16000)
    metric.update(*noisy(20.0, 2, 1, 16000))
    assert metric.compute() == {'sisnr': pytest.approx(20.0, abs=0.2)}


def test_sisnr_is_the_mean_over_items_and_not_over_batches():
    metric, estimate, reference = SISNR(8000, segment=1.0), *noisy(10.0, 3, 2, 8000)
    estimate[0] += reference[0]
    metric.update(estimate[:2], reference[:2])
    metric.update(estimate[2:], reference[2:])
    assert metric.compute()['sisnr'] == pytest.approx(
        si_snr(estimate, reference, 8000).mean().item()
    )
    metric.reset()
    assert metric.compute() == {}


@pytest.mark.parametrize(
    'metric', [SISNR(8000, segment=0.5), SISNR(8000, segment=None), MelDistance(8000)]
)
def test_padding_is_not_measured(metric):
    estimate, reference = noisy(10.0, 3, 1, 9000)
    lengths = torch.tensor([9000, 5000, 0])
    scores = metric.measure(estimate, reference, lengths)
    garbled = estimate.clone()
    garbled[1, :, 5000:] = 100.0
    assert torch.equal(metric.measure(garbled, reference, lengths)[:2], scores[:2])
    assert torch.equal(
        metric.measure(estimate[1:2, :, :5000], reference[1:2, :, :5000]), scores[1:2]
    )
    assert scores[2].isnan()
    metric.reset()
    metric.update(estimate, reference, lengths)
    assert metric.compute()[metric.name] == pytest.approx(scores[:2].mean().item())


def test_mel_distance_is_the_mel_loss():
    estimate, reference = noisy(10.0, 2, 1, 9000)
    metric = MelDistance(24000)
    metric.update(estimate, reference)
    loss = MelSpectrogramL1Loss(24000, n_mels=64, f_min=64.0)(estimate, reference)
    assert metric.compute() == {'mel': pytest.approx(loss.item(), rel=1e-5)}


@pytest.mark.parametrize('lengths', [[100], [100, 101], [-1, 100]])
def test_wrong_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match=r'lengths must be 2 numbers from 0 to 100.*got'):
        SISNR(100).update(*noisy(10.0, 2, 1, 100), torch.tensor(lengths))


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r'\[1, 1, 100\] and \[1, 1, 99\]'):
        SISNR(100).update(torch.zeros(1, 1, 100), torch.zeros(1, 1, 99))
    with pytest.raises(ValueError, match='segment'):
        SISNR(100, segment=0.0)


def test_suite_reports_under_its_own_names():
    suite = MetricSuite({'coarse': SISNR(8000, segment=None), 'peak': Pair()})
    estimate, reference = noisy(10.0, 2, 1, 8000)
    suite.update(estimate, reference)
    figures = suite.compute()
    assert list(figures) == ['coarse', 'peak_estimate', 'peak_reference']
    assert figures['coarse'] == pytest.approx(10.0, abs=0.2)
    assert figures['peak_estimate'] == estimate.max().item()
    suite.metrics.pop('peak')
    suite.reset()
    assert suite.compute() == {}


def test_a_failing_metric_is_reported_once_and_leaves_the_others(caplog):
    suite = MetricSuite({'bad': Failing(), 'some': Sometimes(), 'sisnr': SISNR(8000)})
    wav = noise(2, 1, 8000)
    with caplog.at_level(logging.WARNING):
        for sign in (1.0, -1.0, 1.0):
            suite.update(wav, sign * wav.abs())
    assert [record.getMessage() for record in caplog.records] == [
        'metric bad failed, the run continues: RuntimeError: out of luck',
        'metric some failed, the run continues: RuntimeError: negative',
    ]
    assert suite.failures.counts == {'metric bad': 3, 'metric some': 1}
    figures = suite.compute()
    assert list(figures) == ['some', 'sisnr']
    assert figures['some'] == pytest.approx(wav[:, 0, 0].abs().mean().item())


def test_a_metric_that_fails_to_add_and_to_compute_leaves_the_others(caplog):
    suite = MetricSuite({'lopsided': Lopsided(), 'sisnr': SISNR(8000)})
    suite.update(*noisy(10.0, 2, 1, 8000))
    assert list(suite.compute()) == ['sisnr']
    assert [record.levelname for record in caplog.records] == ['WARNING']
    assert suite.failures.counts == {'metric lopsided': 2}


def test_measuring_a_pickled_copy_and_adding_equals_an_update():
    suite, other = (MetricSuite({'sisnr': SISNR(8000), 'mel': MelDistance(8000)}) for _ in range(2))
    batch = noisy(10.0, 2, 1, 8000)
    suite.update(*batch)
    other.add(pickle.loads(pickle.dumps(other)).measure(*batch))
    assert suite.compute() == other.compute()


class Unlike(SISNR):
    """Fails in one of its methods, on worker 1 alone."""

    def __init__(self, where):
        super().__init__(8000, segment=1.0)
        self.where = where

    def fail(self, where):
        if where == self.where and distributed.get_rank() == 1:
            raise RuntimeError(f'cannot {where}')

    def partial(self):
        self.fail('partial')
        return (
            (lambda: None)
            if self.where == 'pickle' and distributed.get_rank() == 1
            else super().partial()
        )

    def combine(self, partials):
        self.fail('combine')
        return super().combine(partials)

    def reset(self):
        if distributed.is_initialized():
            self.fail('reset')
        super().reset()


@pytest.mark.slow
def test_two_workers_share_the_items_and_a_failure(tmp_path):
    workers = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)
    ]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    estimate, reference = noisy(10.0, 3, 1, 8000)
    (first, failed), (second, failed_second) = (
        torch.load(tmp_path / f'{rank}.th') for rank in range(2)
    )
    assert (
        failed
        == failed_second
        == [
            'metric bad',
            'metric combine',
            'metric partial',
            'metric pickle',
            'metric reset',
            'metric some',
        ]
    )
    # What one worker cannot combine, the other has: they had the same sums.
    assert first.pop('combine') == first['sisnr']
    assert first == second
    assert list(first) == ['reset', 'some', 'sisnr']
    # The worker with the negative item has nothing of this metric; the mean is over the other's.
    assert first['some'] == pytest.approx(reference[:2, 0, 0].abs().mean().item())
    assert first['sisnr'] == pytest.approx(si_snr(estimate, reference, 8000).mean().item())


def _work(rank, folder):
    metrics = {where: Unlike(where) for where in ('partial', 'pickle', 'combine', 'reset')}
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
    figures = suite.compute()
    suite.failures.sync()
    torch.save((figures, sorted(suite.failures.reasons)), f'{folder}/{rank}.th')
    distributed.destroy_process_group()


def test_metrics_know_which_way_is_better():
    suite = MetricSuite({'sisnr': SISNR(8000), 'sisnr_mel': MelDistance(8000), 'pair': Pair()})
    figures = ['sisnr', 'sisnr_mel', 'pair_estimate', 'other']
    assert [suite.higher_is_better(figure) for figure in figures] == [True, False, False, False]


if __name__ == '__main__':
    _work(int(sys.argv[1]), sys.argv[2])
