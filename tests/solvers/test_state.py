"""State and checkpoints: what a stage may change, copies, history, resume."""

import copy
import json
import logging

import pytest
import torch

from audiocodec import train
from audiocodec.run import checkpoint
from audiocodec.run.averager import Averager
from audiocodec.solvers import state as solver_state
from audiocodec.utils.errors import RunError

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
    """Return the state in checkpoints, the losses' buffers, and the modules in training mode."""
    modules = {
        'model': solver.model,
        'adversaries': solver.adversaries,
        'losses': solver.losses,
        'balancer': solver.balancer,
    }
    state = {name: value for name, value in solver.state_dict().items() if name != 'history'}
    training = []
    for name, module in modules.items():
        training += [f'{name}.{key}' for key, part in module.named_modules() if part.training]
    gradients = [name for name, part in solver.model.named_parameters() if part.grad is not None]
    return copy.deepcopy(
        {
            'state': state,
            'losses': dict(solver.losses.state_dict()),
            'updates': solver.updates,
            'training': training,
            'gradients': gradients,
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
    solver.model.encoder.model[0].eval()  # a frozen layer stays in eval mode
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


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def run(solver):
    solver.run()
    assert len(solver.history) == solver.cfg.optim.epochs
    assert checkpoint.load_checkpoint(solver.checkpoint_path)['epoch'] == solver.cfg.optim.epochs
    return solver


def test_a_history_that_cannot_be_written_is_a_warning_and_made_up_for(make_solver, caplog):
    solver = make_solver('optim.epochs=2')
    (solver.folder / 'history.json.tmp').mkdir()  # which is what Dora writes to
    run(solver)
    assert [text[:38] for text in warnings_of(caplog)] == [
        'history.json failed, the run continues: '[:38],
        'failures besides training: history.jso',
    ]
    assert not (solver.folder / 'history.json').exists()
    (solver.folder / 'history.json.tmp').rmdir()
    again = run(make_solver('optim.epochs=2'))
    assert json.loads((again.folder / 'history.json').read_text()) == solver.history
    assert len(again.history) == 2


def test_copies_of_the_checkpoint_that_cannot_be_written_are_warnings(make_solver, caplog):
    solver = make_solver('checkpoint.save_every=1')
    for name in ('checkpoint_1.th', 'checkpoint_best.th'):
        (solver.folder / name / 'occupied').mkdir(parents=True)
    run(solver)
    assert [text.split(':')[0] for text in warnings_of(caplog)] == [
        'copying the checkpoint failed, the run continues',
        'checkpoint.keep_best=valid.mel failed, the run continues',
        'failures besides training',
    ]
    assert not list(solver.folder.glob('.checkpoint*'))
    assert json.loads((solver.folder / 'history.json').read_text()) == solver.history


def test_copies_that_an_interruption_prevented_are_made_up_for(make_solver):
    solver = run(make_solver('checkpoint.save_every=1'))
    names = ('checkpoint_1.th', 'checkpoint_best.th', 'history.json')
    for name in names:
        (solver.folder / name).unlink()
    run(make_solver('checkpoint.save_every=1'))
    assert all((solver.folder / name).exists() for name in names)


def test_a_checkpoint_that_cannot_be_written_ends_the_run(make_solver):
    solver = make_solver()
    (solver.checkpoint_path / 'occupied').mkdir(parents=True)
    solver.restore = lambda: False
    with pytest.raises(RunError, match=r'checkpoint\.th could not be written'):
        solver.run()


def test_discriminators_that_guess_are_named(make_solver, caplog):
    run(make_solver('optim.epochs=2', 'logging.warn_guessing=1'))
    (text,) = warnings_of(caplog)
    assert text.startswith('discriminators tell real from fake by guessing, in the last 2 epochs: ')


def test_a_metric_of_the_best_epoch_that_there_is_not_is_named(make_solver, caplog):
    solver = run(make_solver('checkpoint.keep_best=valid.mos', 'optim.epochs=2'))
    first, last = warnings_of(caplog)
    assert first.startswith(
        'checkpoint.keep_best=valid.mos failed, the run continues: ValueError: valid has no metric '
        'mos; it has l1, msspec, '
    )
    assert last == 'failures besides training: checkpoint.keep_best=valid.mos (2x)'
    assert not (solver.folder / 'checkpoint_best.th').exists()


@pytest.mark.parametrize(
    ('key', 'choose'),
    [
        ('valid.mel', min),
        ('valid.sisnr', max),
        ('evaluate.sisnr', max),
        ('train.d_msstftd_real_acc', max),
    ],
)
def test_the_best_epoch_is_kept_over_a_resumption(make_solver, key, choose):
    overrides = [
        'evaluate.every=1',
        'generate.every=null',
        'dataset.evaluate.num_samples=3',
        f'checkpoint.keep_best={key}',
    ]
    run(make_solver(*overrides, 'optim.epochs=2'))
    solver = run(make_solver(*overrides, 'optim.epochs=4'))
    stage, metric = key.split('.')
    values = [stages[stage][metric] for stages in solver.history]
    best = checkpoint.load_checkpoint(solver.folder / 'checkpoint_best.th')
    assert best['epoch'] == values.index(choose(values)) + 1
    assert best['state']['updates'] == 4 * best['epoch']


@pytest.mark.parametrize('key', ['mel', 'generate.duration', 'valid.', 'valid.a.b', 'True', '1'])
def test_only_a_stage_and_its_metric_can_be_kept(key):
    with pytest.raises(
        train.ConfigError, match=rf'checkpoint\.keep_best={key}: expected STAGE\.METRIC'
    ):
        train.get_solver(
            train.main.get_xp(['solver=compression/debug', f'checkpoint.keep_best={key}']).cfg
        )


@pytest.mark.parametrize('optimizer', ['Bfloat16Adam', 'MatrixDecayAdamW', 'Muon'])
def test_a_run_with_an_optimizer_of_ours_is_resumed_exactly(make_solver, assert_equal, optimizer):
    overrides = (
        'adversarial=msstftd',
        *ADVERSARIES['msstftd'],
        f'optim.optimizer._target_=audiocodec.optim.{optimizer}',
        f'adversarial.optimizer._target_=audiocodec.optim.{optimizer}',
        *RVQ,
    )
    wavs = [0.1 * torch.randn(2, 1, 4000) for _ in range(5)]
    first, second = make_solver(*overrides, base=SMALL), make_solver(*overrides, base=SMALL)
    first.prepare()
    for wav in wavs[:3]:
        first.run_step(wav)
    first.commit()
    second.restore()
    for solver in (first, second):
        torch.manual_seed(1)
        for wav in wavs[3:]:
            assert not solver.run_step(wav)['skipped']
    assert_equal(everything(first), everything(second))


def test_a_checkpoint_of_another_recipe_is_refused_with_the_missing_parts(make_solver):
    solver = make_solver()
    solver.prepare()
    solver.save_checkpoint()
    content = checkpoint.load_checkpoint(solver.checkpoint_path)
    del content['state']['ema']
    checkpoint.save(content, solver.checkpoint_path)
    with pytest.raises(
        ValueError, match=r'checkpoint\.th lacks ema: .*; start from scratch with `dora run --clear'
    ):
        solver.restore()


def test_a_checkpoint_of_other_shapes_is_refused(make_solver):
    solver = make_solver()
    solver.prepare()
    solver.save_checkpoint()
    content = checkpoint.load_checkpoint(solver.checkpoint_path)
    weights = content['state']['model']
    weights['quantizer.codebooks.embed'] = weights['quantizer.codebooks.embed'][:, :-1]
    checkpoint.save(content, solver.checkpoint_path)
    with pytest.raises(ValueError, match='does not fit the configured model: '):
        solver.restore()


def test_another_number_of_workers_continues_with_the_sums_of_all():
    workers = []
    for value in (1.0, 3.0):
        means = Averager()
        means.update({'l1': torch.tensor(value)})
        workers.append({'means': means.state_dict(), 'guard': {'in_row': 1}, 'bad_files': None})
    for is_first, expected in ((True, {'l1': 2.0}), (False, {})):
        merged = solver_state._merged(workers, is_first)
        means = Averager()
        means.load_state_dict(merged['means'], torch.device('cpu'))
        assert means.read() == expected
        assert merged['guard'] == {'in_row': 1}
        assert merged['bad_files'] is None
