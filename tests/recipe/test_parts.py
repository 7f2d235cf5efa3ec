"""Building of parts: every problem is named by its key in one error; what is accepted trains."""

import collections
import copy
import random
import sys

import pytest
import torch
from dora.xp import XP
from omegaconf import OmegaConf

from audiocodec import train
from audiocodec.recipe.parts import SEED_PURPOSE, build_parts
from audiocodec.run.device import seed_everything
from audiocodec.utils import config
from audiocodec.utils.config import ConfigError

TINY = [
    'solver=compression/debug',
    'adversarial=msstftd',
    'adversarial.discriminators.msstftd.filters=2',
    'seanet.n_filters=2',
    'rvq.n_q=2',
    'rvq.bins=8',
    'rvq.kmeans_iters=2',
    'dataset.batch_size=2',
    'dataset.segment_duration=0.2',
    'dataset.num_workers=0',
    'num_threads=1',
    'device=cpu',
]
OTHER = [
    'solver=compression/debug',
    'adversarial=msd',
    'adversarial.discriminators.msd.filters=4',
    'adversarial.discriminators.msd.max_filters=16',
    'schedule=cosine',
    'losses.mrstft.weight=1',
    'quantizer=none',
    'losses.l2.weight=0',
    'seanet.n_filters=2',
    'seanet.causal=false',
    'seanet.norm=time_group_norm',
    'seanet.n_residual_layers=1',
]


@pytest.fixture(scope='module')
def plains():
    """Two configurations, their interpolations not resolved."""
    return [OmegaConf.to_container(train.main._get_config(base)) for base in (TINY, OTHER)]


def put(plain, key, value):
    *path, last = key.split('.')
    for name in path:
        plain = plain[name]
    plain[last] = value


def problems(plain, **values):
    changed = copy.deepcopy(plain)
    for key, value in values.items():
        put(changed, key, value)
    try:
        build_parts(OmegaConf.create(changed))
    except ConfigError as error:
        return error.problems
    return []


def test_the_two_configurations_are_right(plains):
    assert [problems(plain) for plain in plains] == [[], []]


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('seanet.n_filters', 'x', "seanet.n_filters='x': expected an integer"),
        ('seanet.n_filters', 0, 'seanet.n_filters=0: expected an integer >= 1'),
        ('seanet.n_filters', 10**6, 'n_filters=1000000'),
        ('seanet.n_residual_layers', 10**6, 'n_residual_layers=1000000'),
        (
            'seanet.ratios',
            [8, 'a'],
            "seanet.ratios=[8, 'a']: expected a list of integers",
        ),
        (
            'seanet.norm',
            'time_group_norm',
            "seanet.norm='time_group_norm' averages over all time, which a causal model",
        ),
        (
            'seanet.norm',
            'wight_norm',
            "seanet.norm='wight_norm' is unknown: choose one of none, weight_norm",
        ),
        (
            'seanet.activation_params',
            {'alpha': 'x'},
            "parameters {'alpha': 'x'} do not fit the activation ELU",
        ),
        ('seanet.activation', 'Conv1d', 'do not fit the activation Conv1d'),
        ('seanet.init', 'zeros', "seanet.init='zeros' is unknown"),
        (
            'decoder.trim_right_ratio',
            2,
            'decoder.trim_right_ratio=2: expected a number from 0 to 1',
        ),
        (
            'encoder.n_filtrs',
            3,
            "encoder.n_filtrs=3: audiocodec.modules.SEANetEncoder has no argument 'n_filtrs'; did "
            'you '
            "mean 'n_filters'?",
        ),
        ('rvq.decay', 1, 'rvq.decay=1: must be in [0, 1)'),
        ('rvq.threshold_ema_dead_code', 30, 'rvq.threshold_ema_dead_code=30: must be in [0, 20)'),
        ('rvq.q_dropout', 'yes', "rvq.q_dropout='yes': expected true or false"),
        ('model.renormalize', True, 'renormalize=True needs the loudness of the whole item'),
        (
            'model._target_',
            'torch.nn.L1Loss',
            'model._target_=torch.nn.L1Loss has no arguments channels, decoder',
        ),
        ('adversarial.every', 0.5, 'adversarial.every=0.5: expected a number >= 1'),
        ('adversarial.start', -1, 'adversarial.start=-1'),
        ('adversarial.start', 1.5, 'adversarial.start=1.5: expected an integer'),
        (
            'adversarial.criterion',
            'hing',
            "adversarial: adversarial criterion 'hing' is unknown: choose one of hinge",
        ),
        ('adversarial.max_norm', 0, 'adversarial.max_norm=0: expected a number > 0'),
        (
            'adversarial.optimizer.betas',
            [0.5, 2.0],
            'adversarial.optimizer: torch.optim.Adam does not work with lr=0.006',
        ),
        ('adversarial.optimizer._partial_', False, 'adversarial.optimizer.params is missing'),
        ('adversarial.discriminators.msstftd', 3, 'adversarial.discriminators={'),
        (
            'adversarial.discriminators.msstftd.dilatons',
            [1],
            "no argument 'dilatons'; did you mean 'dilations'?",
        ),
        (
            'adversarial.discriminators.msstftd.n_ffts',
            [512],
            'msstftd.n_ffts=[512], hop_lengths=[256, 512, 128, 64',
        ),
        (
            'dataset.segment_duration',
            0.05,
            'audio of 800 samples is shorter than an STFT frame of n_fft=1024',
        ),
        (
            'dataset.segment_duration',
            0,
            'dataset.segment_duration=0: expected seconds, or null for whole files',
        ),
        (
            'dataset.train.segment_duration',
            'x',
            "dataset.train.segment_duration='x': expected a finite number or null",
        ),
        (
            'dataset.min_segment_ratio',
            2,
            'dataset.min_segment_ratio=2: expected a fraction in [0, 1]',
        ),
        (
            'dataset.permutation_on_files',
            True,
            'dataset.permutation_on_files=true uses every file equally',
        ),
        (
            'dataset.valid.bach_size',
            3,
            'dataset.valid.bach_size=3: audiocodec.data.AudioDataset has no argument',
        ),
        (
            'losses.msspec.f_max',
            9000.0,
            'losses.msspec: mel bands need 0 <= f_min < f_max <= sample_rate / 2 (8000 Hz)',
        ),
        ('losses.msspec.n_mels', 0, 'losses.msspec.n_mels must be at least 1, got 0'),
        ('losses.msspec.range_end', 3, 'range_start=6 and range_end=3'),
        ('losses.mel.floor_level', 0.0, 'losses.mel.floor_level must be positive'),
        ('losses.sisnr.segment', -1, 'losses.sisnr'),
        (
            'losses.l1.reduction',
            'none',
            'losses.l1: torch.nn.L1Loss does not work with weight=0.1, reduction=none: called '
            'as loss(wav_hat, wav), a loss must return a 0-d tensor, it returned the shape [2, 1, ',
        ),
        (
            'losses.msspec._target_',
            'audiocodec.losses.Balancer',
            'losses.msspec._target_=audiocodec.losses.Balancer has no arguments alphas',
        ),
        ('balancer.ema_decay', 0, 'balancer.ema_decay must be in (0, 1]'),
        (
            'balancer._target_',
            'torch.nn.Identity',
            'balancer._target_=torch.nn.Identity: expected LossCombiner, got Identity',
        ),
        ('optim.optimizer.betas', [0.5], 'optim.optimizer.betas=[0.5]: expected a list of 2'),
        (
            'optim.optimizer.eps',
            -1,
            'optim.optimizer: torch.optim.Adam does not work with lr=0.006, betas=[0.5, 0.9], '
            'weight_decay=0.0, fused=True, eps=-1: Invalid epsilon value',
        ),
        (
            'optim.optimizer',
            {'_target_': 'torch.optim.LBFGS'},
            'optim.optimizer: torch.optim.LBFGS does not work with',
        ),
        (
            'optim.schedule',
            {'_target_': 'torch.optim.lr_scheduler.ReduceLROnPlateau', '_partial_': True},
            'optim.schedule: torch.optim.lr_scheduler.ReduceLROnPlateau does not work with no '
            'arguments',
        ),
        ('optim.schedule.factor', 'x', "optim.schedule.factor='x': expected a finite number"),
        ('optim.schedule', {'factor': 1}, 'optim.schedule: a component needs a _target_'),
        ('metrics.mel.n_mels', 'x', "metrics.mel.n_mels='x': expected an integer"),
    ],
)
def test_a_wrong_value_is_named(plains, key, value, expected):
    found = problems(plains[0], **{key: value})
    assert any(expected in problem for problem in found), found
    assert len(found) == len(set(found))


def test_a_format_that_cannot_hold_the_rate_is_named(plains):
    found = problems(
        plains[1],
        sample_rate=96000,
        **{'generate.audio.format': 'mp3', 'datasource.max_sample_rate': 96000},
    )
    assert found == ['generate.audio.format=mp3: MP3 does not support 1 channels at 96000 Hz']


def test_all_problems_are_reported_at_once(plains):
    found = problems(
        plains[0],
        **{
            'seanet.n_filters': 'x',
            'rvq.decay': 2,
            'adversarial.every': 0,
            'losses.l1.reduction': 'x',
            'optim.lr': 0,
            'optim.optimizer.betas': [1],
            'balancer.total_norm': 0,
            'metrics.mel.n_mels': 0,
            'dataset.min_segment_ratio': 2,
            'slurm.gpus': 'x',
            'logging.level': 'x',
            'model.foo': 1,
        },
    )
    for key in (
        'seanet.n_filters',
        'rvq.decay',
        'adversarial.every',
        'losses.l1',
        'optim.lr',
        'optim.optimizer.betas',
        'balancer.total_norm',
        'metrics.mel.n_mels',
        'dataset.min_segment_ratio',
        'slurm.gpus',
        'logging.level',
        'model.foo',
    ):
        assert sum(problem.startswith(key) for problem in found) == 1, (key, found)


def test_parts_are_drawn_from_the_seed_and_running_them_leaves_no_trace(plains, assert_equal):
    cfg = OmegaConf.create(plains[0])
    first, second = build_parts(cfg), build_parts(cfg)
    assert first.model.training
    assert first.adversaries.training
    assert not first.model.quantizer.codebooks.inited.any()
    assert_equal(dict(first.model.state_dict()), dict(second.model.state_dict()))
    seed_everything(cfg.seed, SEED_PURPOSE)
    model, adversaries = config.build(cfg.model), config.build(cfg.adversarial)
    for plain, part in ((model, first.model), (adversaries, first.adversaries)):
        assert_equal(dict(plain.state_dict()), dict(part.state_dict()))


def test_components_of_other_packages_are_built_but_not_run(plains, monkeypatch, tmp_path):
    (tmp_path / 'theirs.py').write_text(
        'import torch\n'
        'class Heavy(torch.nn.Module):\n'
        '    def __init__(self, size: int) -> None:\n'
        '        super().__init__()\n'
        '        if size > 3:\n'
        '            raise MemoryError\n'
        '    def forward(self, wav_hat, wav):\n'
        '        raise AssertionError\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(config, 'ALLOWED_PREFIXES', [*config.ALLOWED_PREFIXES, 'theirs.'])
    node = {'_target_': 'theirs.Heavy', 'size': 3, 'weight': 1.0}
    assert problems(plains[0], **{'losses.heavy': node}) == []
    assert problems(plains[0], **{'losses.heavy': {**node, 'size': 'x'}}) == [
        "losses.heavy.size='x': expected an integer"
    ]
    assert problems(plains[0], **{'losses.heavy': {**node, 'size': 4}}) == [
        'losses.heavy: theirs.Heavy does not work with size=4: MemoryError'
    ]
    sys.modules.pop('theirs')


@pytest.fixture
def gpu_only(monkeypatch, tmp_path):
    """A package of components that do not run on a CPU."""
    (tmp_path / 'gpu_only.py').write_text(
        'from audiocodec.models import EncodecModel\n'
        'from audiocodec.modules import SEANetEncoder\n'
        'class Encoder(SEANetEncoder):\n'
        '    def forward(self, wav):\n'
        '        raise RuntimeError("expected a CUDA tensor")\n'
        'class Model(EncodecModel):\n'
        '    def forward(self, wav):\n'
        '        raise RuntimeError("expected a CUDA tensor")\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(config, 'ALLOWED_PREFIXES', list(config.ALLOWED_PREFIXES))
    yield 'gpu_only.'
    sys.modules.pop('gpu_only')


def test_a_part_with_a_component_of_another_package_is_not_run(plains, gpu_only):
    encoder = {**plains[0]['encoder'], '_target_': f'{gpu_only}Encoder'}
    assert problems(plains[0], allow_targets=[gpu_only], encoder=encoder) == []


def test_a_model_of_another_package_needs_the_rate_of_the_recipe(plains, gpu_only):
    model = {'allow_targets': [gpu_only], 'model._target_': f'{gpu_only}Model'}
    assert problems(plains[0], **model) == []
    assert problems(
        plains[0], **model, **{'model.sample_rate': 24000, 'model.output_sample_rate': 24000}
    ) == ['model: its sample_rate is 24000, which must agree with sample_rate=16000']


def test_allowed_targets_are_validated_before_they_are_allowed(plains):
    before = list(config.ALLOWED_PREFIXES)
    for value in (None, 'os', ['os', 3]):
        found = problems(plains[0], allow_targets=value)
        assert found == [f'allow_targets={value}: expected a list of strings']
    assert before == config.ALLOWED_PREFIXES


def test_an_invalid_seed_leaves_the_other_problems_visible(plains):
    found = problems(plains[0], seed=-1, **{'rvq.decay': 2})
    assert [problem.split(':')[0] for problem in found] == ['seed=-1', 'rvq.decay=2']


def test_a_part_that_is_too_large_is_the_only_one_reported(plains, monkeypatch):
    monkeypatch.setattr('audiocodec.recipe.parts.MAX_PARAMETERS', 500)
    (found,) = problems(plains[0], **{'encoder.n_residual_layers': 60, 'encoder.dilation_base': 1})
    assert found.startswith('seanet: audiocodec.modules.SEANetEncoder does not work with ')
    assert found.endswith(': more than 500 parameter tensors')


def test_components_may_have_arguments_named_as_the_audios_are(plains, monkeypatch, tmp_path):
    """Only copies of `${channels}` are the audio's channels; a teacher may have others."""
    (tmp_path / 'teachers.py').write_text(
        'import torch\n'
        'class Teacher(torch.nn.Module):\n'
        '    def __init__(self, sample_rate: int, in_channels: int, channels: int) -> None:\n'
        '        super().__init__()\n'
        '        self.scale = sample_rate * in_channels * channels\n'
        '    def forward(self, wav_hat, wav):\n'
        '        return (wav_hat - wav).abs().mean() / self.scale\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(config, 'ALLOWED_PREFIXES', [*config.ALLOWED_PREFIXES, 'teachers.'])
    node = (
        '{_target_: teachers.Teacher, sample_rate: 8000, in_channels: 80, '
        'channels: 512, weight: 1.0}'
    )
    cfg = train.main.get_xp([*TINY, f'losses.teacher={node}']).cfg
    build_parts(cfg)
    assert config.build(cfg.losses.teacher).scale == 8000 * 80 * 512
    sys.modules.pop('teachers')


def test_a_model_of_another_rate_is_refused(plains):
    found = problems(plains[0], **{'model.sample_rate': 24000, 'model.output_sample_rate': 24000})
    assert found == ['model: its sample_rate is 24000, which must agree with sample_rate=16000']


# Mutated configurations

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    7,
    100,
    0.5,
    -0.5,
    1e9,
    1e-12,
    float('nan'),
    float('inf'),
    '',
    'x',
    'none',
    '3',
    '1e-3',
    [],
    [1],
    ['a'],
    [1, 2],
    [0],
    [2, -1],
    [[1]],
    {},
    {'a': 1},
    {'_target_': 'os.system'},
    {'_target_': 'torch.nn.L1Loss'},
    {'_target_': 'torch.nn'},
    {'_target_': 3},
    2**70,
    -(2**70),
    '${nothing}',
    '???',
]
TARGETS = [
    'os.system',
    'torch.nn.Linear',
    'torch.nn.L1Loss',
    'torch.nn.ReLU',
    'audiocodec.losses',
    'torch.optim.LBFGS',
    'audiocodec.losses.SISNR',
    'torch.optim.SGD',
    'torch.optim.SparseAdam',
    'torch.optim.AdamW',
    'x',
    '',
    'torch.optim.lr_scheduler.ReduceLROnPlateau',
    'audiocodec.nothing',
    'torch.nn.',
    'torch.nn.functional.relu',
    'audiocodec.models.EncodecModel',
    'audiocodec.modules.SEANetEncoder',
    'audiocodec.quantization.NoQuantizer',
    'audiocodec.losses.Balancer',
    'audiocodec.metrics.ViSQOL',
    'torch.optim.lr_scheduler.OneCycleLR',
    'audiocodec.optim.ModuleEMA',
    'audiocodec.utils.config.ConfigError',
    'torch.nn.Module',
]
NEW = ['foo', 'lr', 'weight', '_target_', 'n_filtrs', 'sample_rate', '_partial_', '_args_']


def nodes(node, prefix=''):
    for key, value in node.items():
        if prefix or key not in ('dora', 'hydra'):
            yield f'{prefix}{key}', value
            if isinstance(value, dict):
                yield from nodes(value, f'{prefix}{key}.')


def mutated(rng, plain):
    """Return a copy with one to three random changes, and the changes.

    They replace leaves and sections, change targets and add keys.
    """
    plain, changes = copy.deepcopy(plain), {}
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        leaves = [key for key, value in nodes(plain) if not isinstance(value, dict)]
        sections = [key for key, value in nodes(plain) if isinstance(value, dict)]
        kind = rng.random()
        if kind < 0.6:
            key = rng.choice(leaves)
            old, pool = config.select(plain, key), VALUES
            if key.endswith('_target_'):
                pool = TARGETS
            elif isinstance(old, int | float) and not isinstance(old, bool):
                pool = [*VALUES, *2 * [old * 2, old + 1, -old, str(old), old / 3]]
            elif isinstance(old, list):
                pool = [*VALUES, *2 * [old + old, old[:1], [str(item) for item in old], old[::-1]]]
            value = rng.choice(pool)
        elif kind < 0.75:
            key, value = f'{rng.choice(sections)}.{rng.choice(NEW)}', rng.choice(VALUES + TARGETS)
        elif kind < 0.9:
            key, value = rng.choice(sections), rng.choice(VALUES)
        else:
            key, value = (
                rng.choice([key for key in leaves if key.endswith('_target_')]),
                rng.choice(TARGETS),
            )
        put(plain, key, value)
        changes[key] = value
    return plain, changes


def train_a_little(cfg):
    OmegaConf.resolve(cfg)
    cfg.dora.dir = str(train.main.dora.dir)
    with XP(dora=train.main.dora, cfg=cfg, argv=[], delta=[]).enter():
        with config.shown_as_messages():
            solver = train.get_solver(cfg)
        wav = 0.1 * torch.randn(2, cfg.channels, 4096)
        solver.run_step(wav)
        solver.valid_step(wav)


@pytest.mark.slow
def test_mutated_configurations_are_refused_by_name_or_train(plains):
    """Each is refused with a `ConfigError` that names the change, or accepted; some are trained."""
    outcomes = collections.Counter()
    for seed in range(100):
        rng = random.Random(seed)
        plain, changes = mutated(rng, rng.choice(plains))
        cfg = OmegaConf.create(plain)
        try:
            build_parts(cfg)
        except ConfigError as error:
            outcomes['refused'] += 1
            message = str(error)
            assert any(
                key.split('.')[-1] in message
                or key.rpartition('.')[0] in message
                or (value and str(value) in message)
                for key, value in changes.items()
            ), (seed, changes, message)
            continue
        outcomes['accepted'] += 1
        if outcomes['accepted'] % 3 == 0:
            train_a_little(cfg)
    assert outcomes['refused'] > 60
    assert outcomes['accepted'] > 6
