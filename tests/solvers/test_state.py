"""Only a training update changes state: validation, evaluation and generation leave every bit as it
was.
"""

import copy

import pytest
import torch

pytestmark = pytest.mark.slow

SMALL = [
    'solver=compression/debug',
    'device=cpu',
    'num_threads=1',
    'seanet.n_filters=2',
    'seanet.dimension=8',
    'dataset.batch_size=2',
    'dataset.segment_duration=0.25',
    'dataset.num_workers=0',
    'optim.updates_per_epoch=1',
    'optim.epochs=1',
    'dataset.valid.num_samples=2',
    'dataset.evaluate.num_samples=2',
    'logging.tensorboard=false',
    'dataset.generate.num_samples=2',
    'dataset.generate.segment_duration=0.25',
    'checkpoint.keep_best=null',
]
RVQ = ['rvq.n_q=2', 'rvq.bins=8', 'rvq.kmeans_iters=2']
STFT = [
    f'adversarial.discriminators.msstftd.{value}'
    for value in ('filters=2', 'n_ffts=[128,64]', 'hop_lengths=[32,16]', 'win_lengths=[128,64]')
]
ADVERSARIES = {
    'none': [],
    'msstftd': STFT,
    'msd': [
        'adversarial.discriminators.msd.filters=4',
        'adversarial.discriminators.msd.max_filters=8',
    ],
    'mpd': [
        'adversarial.discriminators.mpd.filters=2',
        'adversarial.discriminators.mpd.max_filters=4',
    ],
    'msstftd_mpd': [
        *STFT,
        'adversarial.discriminators.mpd.filters=2',
        'adversarial.discriminators.mpd.max_filters=4',
    ],
}
NORMS = {
    'weight_norm': [],
    'spectral_norm': ['seanet.norm=spectral_norm'],
    'time_group_norm': [
        'seanet.norm=time_group_norm',
        'seanet.causal=false',
        'model.renormalize=true',
    ],
}
CASES = [
    *((name, 'rvq', 'weight_norm') for name in ADVERSARIES),
    *(('msd', 'none', norm) for norm in NORMS),
    ('msd', 'rvq', 'spectral_norm'),
]


def everything(solver):
    """The state that a checkpoint holds, buffers of losses and metrics, and which modules are in
    training mode.
    """
    modules = {
        'model': solver.model,
        'adversaries': solver.adversaries,
        'losses': solver.losses,
        'balancer': solver.balancer,
    }
    state = {name: value for name, value in solver.state_dict().items() if name != 'history'}
    return copy.deepcopy(
        {
            'state': state,
            'losses': dict(solver.losses.state_dict()),
            'updates': solver.updates,
            'training': [
                f'{name}.{key}'
                for name, module in modules.items()
                for key, part in module.named_modules()
                if part.training
            ],
            'gradients': [
                name for name, part in solver.model.named_parameters() if part.grad is not None
            ],
        }
    )


@pytest.mark.parametrize(('adversary', 'quantizer', 'norm'), CASES)
def test_a_stage_changes_nothing(make_solver, assert_equal, adversary, quantizer, norm):
    solver = make_solver(
        f'adversarial={adversary}',
        *ADVERSARIES[adversary],
        f'quantizer={quantizer}',
        *NORMS[norm],
        *(RVQ if quantizer == 'rvq' else []),
        base=SMALL,
    )
    solver.prepare()
    untrained = everything(solver)
    solver.run_step(0.1 * torch.randn(2, 1, 4000))
    solver.model.encoder.model[0].eval()  # as who freezes a layer does
    before = everything(solver)
    with pytest.raises(AssertionError):
        assert_equal(untrained, before)
    for stage in ('valid', 'evaluate', 'generate'):
        solver.run_stage(stage, getattr(solver, stage))
        assert_equal(before, everything(solver))


@pytest.mark.parametrize('part', ['model', 'adversaries'])
def test_a_stage_that_fails_changes_nothing_either(make_solver, assert_equal, monkeypatch, part):
    solver = make_solver('adversarial=msd', *ADVERSARIES['msd'], *RVQ, base=SMALL)
    solver.prepare()
    solver.run_step(0.1 * torch.randn(2, 1, 4000))
    before = everything(solver)
    name = 'forward' if part == 'model' else 'generator_losses'

    def fail(*args):
        raise RuntimeError('out of memory')

    with monkeypatch.context() as patched:
        patched.setattr(getattr(solver, part), name, fail)
        with pytest.raises(RuntimeError, match='out of memory'):
            solver.run_stage('valid', solver.valid)
    assert_equal(before, everything(solver))
