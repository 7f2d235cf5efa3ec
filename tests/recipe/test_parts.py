"""Configurations with everything wrong that can be wrong: one message, which names the key; and
what passes, trains.
"""

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
        ('seanet.n_filtrs', 3, "seanet.n_filtrs: there is no such key; did you mean 'n_filters'?"),
        ('rvq.decay', 1, 'rvq.decay=1: must be in [0, 1)'),
        ('rvq.threshold_ema_dead_code', 30, 'rvq.threshold_ema_dead_code=30: must be in [0, 20)'),
        ('rvq.q_dropout', 'yes', "rvq.q_dropout='yes': expected true or false"),
        ('quantizer.dimension', 7, 'quantizer.dimension=7: must agree with seanet.dimension=32'),
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
            '800 samples of audio are less than one STFT frame of n_fft=1024',
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
            'dataset.evaluate.batch_size',
            0,
            'dataset.evaluate.batch_size=0: expected a positive integer',
        ),
        ('dataset.weight', 3, 'dataset.weight: there is no such key'),
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
            'losses.l1: torch.nn.L1Loss does not work with weight=0.1, reduction=none: a loss '
            'is one number',
        ),
        (
            'losses.l1.weight',
            'x',
            'losses.l1.weight=x: expected null (off), 0 (reported only) or a weight above 0',
        ),
        ('losses.l1', {'weight': 1.0}, 'losses.l1: a loss needs a _target_'),
        (
            'losses.adv',
            {'weight': 1.0, 'wieght': 3},
            "losses.adv.wieght: there is no such key; did you mean 'weight'?",
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
            'balancer._target_=torch.nn.Identity: makes a Identity, where a Balancer is needed',
        ),
        ('optim.lr', float('inf'), 'optim.lr=inf: expected a learning rate above 0'),
        ('optim.lrr', 1, "optim.lrr: there is no such key; did you mean 'lr'?"),
        ('optim.optimizer.betas', [0.5], 'optim.optimizer.betas=[0.5]: expected a list of 2 items'),
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
        (
            'optim.ema.decay',
            1,
            'optim.ema.decay=1: expected from 0 to below 1, or null for no average',
        ),
        ('checkpoint', 3, 'checkpoint=3: expected a section'),
        ('optim', 3, 'node `optim` is not a container'),
        ('metrics.mel.n_mels', 'x', "metrics.mel.n_mels='x': expected an integer"),
        ('evaluate.metrics.mel', 1, 'evaluate.metrics.mel=1: expected true or false'),
        (
            'generate.audio.format',
            'wave',
            'generate.audio.format=wave: expected wav, flac, ogg or mp3',
        ),
        ('logging.level', 'info', 'logging.level=info: expected DEBUG, INFO, WARNING or ERROR'),
        ('slurm.gpus', 1.5, 'slurm.gpus=1.5: expected an integer'),
        (
            'slurm.partitions',
            'a',
            "slurm.partitions: there is no such key; did you mean 'partition'?",
        ),
        ('datasource.train', 3, 'datasource.train=3: expected a path, or null for none'),
        (
            'dataset.num_workers',
            10**6,
            'dataset.num_workers=1000000: expected an integer from 0 to 1024',
        ),
        ('channels', True, 'channels=True: expected 1 (mono) or 2 (stereo)'),
        ('seed', '${sed}', "seed=${sed}: Interpolation key 'sed' not found"),
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


def test_everything_is_said_at_once(plains):
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


def test_components_may_have_arguments_named_as_the_audios_are(plains, monkeypatch, tmp_path):
    """A teacher that listens at 8 kHz to 80 mel bands; what are the audio's channels is known from
    `${channels}`.
    """
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
    found = problems(plains[0], **{'model.sample_rate': 24000})
    assert found == ['model: its sample_rate is 24000, which must agree with sample_rate=16000']


@pytest.mark.parametrize(
    'key',
    [
        'losses.mel.sample_rate',
        'metrics.sisnr.sample_rate',
        'encoder.channels',
        'adversarial.discriminators.msstftd.in_channels',
    ],
)
def test_a_copy_of_the_rate_or_the_channels_is_not_set_alone(key):
    with pytest.raises(
        ConfigError, match=rf'{key}=2: must agree with (sample_rate|channels)=\d+; set \w+ alone'
    ):
        train.main.get_xp([*TINY, f'{key}=2'])


def test_a_schedule_needs_the_length_of_the_run(plains):
    found = problems(
        plains[1], **{'optim.updates_per_epoch': None, 'dataset.train.num_samples': None}
    )
    assert found[0].startswith(
        'optim.total_updates=None: the schedule audiocodec.optim.CosineSchedule needs'
    )
    assert (
        problems(plains[1], **{'optim.updates_per_epoch': None, 'dataset.train.num_samples': 8000})
        == []
    )


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
    """A copy with one to three changes, and these: leaves and sections replaced, targets changed,
    keys added.
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
    """200: a `ConfigError`, and none else, that names what was changed, or success: of these, a
    part is trained.
    """
    outcomes = collections.Counter()
    for seed in range(200):
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
    assert outcomes['refused'] > 120
    assert outcomes['accepted'] > 6


@pytest.mark.parametrize(
    'argv',
    [
        ['optim.lr=1,2'],
        ['+optim.lr=1'],
        ['dset@foo=audio/example'],
        ['=3'],
        ['optim.lr=???'],
        ['optim.lr=${foo}'],
        ['model=seanet'],
        ['solver=[a,b]'],
        ['seed=' + '9' * 400],
    ],
)
def test_command_lines_that_cannot_be_read_are_refused_too(argv):
    with pytest.raises(ConfigError) as error:
        build_parts(train.main.get_xp(['solver=compression/debug', *argv]).cfg)
    assert argv[0].split('=')[0].split('.')[-1].split('@')[0].strip('+') in str(error.value)


def test_unknown_keys_and_wrong_values_of_a_command_line_come_together():
    with pytest.raises(ConfigError) as error:
        train.main.get_xp(
            [
                'solver=compression/debug',
                'optm.lr=1',
                'optim.lr=-1',
                'rvq.nq=3',
                '~losses.l7',
                'word',
                'seanet.ratios=[1,0]',
                'adversarial=msdd',
                'logging.level=[x',
            ]
        )
    expected = [
        "optm.lr=1: there is no key 'optm.lr'; did you mean 'optim.lr'?",
        "rvq.nq=3: there is no key 'rvq.nq'; did you mean 'rvq.n_q'?",
        "~losses.l7: there is no key 'losses.l7'; did you mean 'losses.l2'?",
        "override 'word': expected key=value",
        "adversarial=msdd: no such option; did you mean 'msd'?",
        "override 'logging.level=[x' cannot be read",
        'optim.lr=-1: expected a learning rate above 0',
        'seanet.ratios=[1, 0]: expected a non-empty list of integers >= 1.',
    ]
    assert len(error.value.problems) == len(expected)
    for start, problem in zip(expected, error.value.problems):
        assert problem.startswith(start)


def test_values_are_not_blamed_for_keys_that_are_unknown():
    with pytest.raises(ConfigError) as error:
        train.main.get_xp(
            [
                'solver=compression/debug',
                'sampl_rate=96000',
                'losses.mel.n_mels=3',
                'datasource.max_sample_rate=20000',
            ]
        )
    assert len(error.value.problems) == 1
