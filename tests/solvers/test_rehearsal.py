"""Dry run of GPU training on `meta` tensors: the host cannot read them, nor mix them with others.

They have no autocast, which test_precision.py tests for each part.
"""

import contextlib
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils import _foreach_utils

from audiocodec import train
from audiocodec.run.averager import Averager
from audiocodec.solvers import base
from audiocodec.utils import distrib

pytestmark = pytest.mark.slow

CONFIG = Path(train.main.full_config_path)
DEBUG = 'solver=compression/debug'


def options(group):
    return sorted(path.stem for path in (CONFIG / group).glob('[!_]*.yaml'))


@pytest.fixture
def meta(monkeypatch):
    """Build solvers on `meta`, and patch what PyTorch offers only for CPU and GPU."""
    try:
        parts = [torch.empty(2, size, 1, device='meta', requires_grad=True) for size in (3, 1)]
        torch._weight_norm(*parts).sum().backward()
    except NotImplementedError:
        pytest.skip(f'torch {torch.__version__} has no weight norm of meta tensors')
    monkeypatch.setattr(base, 'resolve_device', lambda *_: torch.device('meta'))
    plain = torch.autocast
    monkeypatch.setattr(
        torch,
        'autocast',
        lambda device_type, *args, **kwargs: (
            contextlib.nullcontext()
            if device_type == 'meta'
            else plain(device_type, *args, **kwargs)
        ),
    )
    kinds = _foreach_utils._get_fused_kernels_supported_devices()
    monkeypatch.setattr(
        sys.modules['torch.optim.optimizer'],
        '_get_fused_kernels_supported_devices',
        lambda: [*kinds, 'meta'],
    )
    # As when moved to a GPU, parameters stay the same objects, which optimizers hold.
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.fixture
def workers(monkeypatch):
    """Make this process the first of two workers with NCCL, which refuses tensors of the host.

    Returns the list of collectives that were called.
    """
    calls = []

    def collective(name):
        def call(*tensors, **_):
            for tensor in tensors:
                for one in tensor if isinstance(tensor, list) else [tensor]:
                    if one.device.type == 'cpu':
                        raise RuntimeError(
                            f'{name}: no backend type associated with device type cpu'
                        )
            calls.append(name)

        return call

    group = {'is_initialized': lambda: True, 'get_world_size': lambda: 2, 'get_rank': lambda: 0}
    for name, stand_in in group.items():
        monkeypatch.setattr(distrib.distributed, name, stand_in)
    monkeypatch.setattr(distrib, 'all_gather_object', lambda thing: [thing, thing])
    for name in ('all_reduce', 'broadcast', 'all_gather'):
        monkeypatch.setattr(distrib.distributed, name, collective(name))
    return calls


@pytest.fixture
def make_solver(tmp_path, meta):
    with contextlib.ExitStack() as stack:

        def make(*overrides):
            argv = [
                'device=cpu',
                'num_threads=1',
                'logging.tensorboard=false',
                f'dora.dir={tmp_path}',
                *overrides,
            ]
            cfg = train.main.get_xp(argv).cfg
            for key in ('rvq', 'quantizer', 'quantizer.quantizer'):
                if OmegaConf.select(cfg, f'{key}.kmeans_init') is True:
                    argv.append(f'{key}.kmeans_init=false')
                    break
            xp = train.main.get_xp(argv)
            train.main.init_xp(xp)
            stack.enter_context(xp.enter(stack=True))
            return train.get_solver(xp.cfg)

        yield make


def dry_run(solver):
    wav = torch.empty(2, solver.model.channels, 4097, device='meta')
    averager = Averager()
    solver.model.train()
    for _ in range(2):
        metrics = solver.run_step(wav)
        averager.update(metrics, where=~metrics.pop('skipped'))
    with solver.averaged_model():
        averager.update(solver.valid_step(wav), weight=2)
    assert {sums.device.type for sums in averager._sums.values()} == {'meta'}
    assert {*solver.trained, 'g_loss', 'grad_norm'} <= metrics.keys()
    return metrics


@pytest.mark.parametrize('recipe', options('solver/compression'))
def test_every_recipe_as_one_of_two_workers(make_solver, workers, recipe):
    dry_run(make_solver(f'solver=compression/{recipe}'))
    assert set(workers) == {'broadcast', 'all_reduce'}


@pytest.mark.parametrize('adversary', options('adversarial'))
def test_every_adversary(make_solver, adversary):
    if adversary == 'cqt':
        pytest.importorskip('nnAudio')
    solver = make_solver(DEBUG, f'adversarial={adversary}')
    metrics = dry_run(solver)
    kinds = ('msstftd', 'mpd', 'msd', 'mbstft', 'mrd', 'cqt')
    for term in ('adv', 'feat', 'd'):
        found = {name for name in kinds if f'{term}_{name}' in metrics}
        assert found == set(solver.adversaries.discriminators)


@pytest.mark.parametrize('quantizer', options('quantizer'))
def test_every_quantizer(make_solver, quantizer):
    metrics = dry_run(make_solver(DEBUG, f'quantizer={quantizer}'))
    assert ('codebook_usage' in metrics) == (quantizer not in ('none', 'noise', 'vae'))


@pytest.mark.parametrize(
    ('fault', 'message'),
    [
        (lambda wav: wav.mean().item(), 'meta'),
        (lambda wav: wav + torch.ones(wav.shape), 'device'),
        (lambda wav: distrib.all_reduce_sum_([torch.ones(2)]), 'all_reduce: no backend'),
    ],
)
def test_faults_are_found(make_solver, workers, monkeypatch, fault, message):
    solver = make_solver(DEBUG)
    plain = solver.untrained_losses
    monkeypatch.setattr(
        solver, 'untrained_losses', lambda out, wav: (fault(wav), plain(out, wav))[1]
    )
    with pytest.raises(RuntimeError, match=message):
        dry_run(solver)
