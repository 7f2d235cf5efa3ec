"""Rules of whole configurations: each problem is named with key, value and what is accepted."""

import copy

import pytest
from omegaconf import OmegaConf

from audiocodec import train
from audiocodec.recipe.check import rule_problems
from audiocodec.utils import config
from audiocodec.utils.config import ConfigError


@pytest.fixture(scope='module')
def plain():
    """A configuration with discriminators, its interpolations not resolved."""
    return unresolved('adversarial=msstftd')


def unresolved(*overrides):
    return OmegaConf.to_container(train.main._get_config(['solver=compression/debug', *overrides]))


def changed(plain, **values):
    """A copy with some values set; `DELETED` removes a key."""
    plain = copy.deepcopy(plain)
    for key, value in values.items():
        section, _, name = key.rpartition('.')
        node = config.select(plain, section) if section else plain
        if value is DELETED:
            del node[name]
        else:
            node[name] = value
    return OmegaConf.create(plain)


DELETED = object()


def problems(plain, **values):
    try:
        return rule_problems(changed(plain, **values))[1]
    except ConfigError as error:
        return error.problems


def test_a_valid_configuration_has_no_problems_and_is_returned_resolved(plain):
    resolved, found, can_build = rule_problems(changed(plain))
    assert (found, can_build) == ([], True)
    assert resolved['encoder']['n_filters'] == plain['seanet']['n_filters']


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('rvq.bns', 3, "rvq.bns: there is no such key; did you mean 'bins'?"),
        ('seanet.n_filtrs', 3, "seanet.n_filtrs: there is no such key; did you mean 'n_filters'?"),
        (
            'dataset.evaluate.batch_size',
            0,
            'dataset.evaluate.batch_size=0: expected a positive integer',
        ),
        ('dataset.weight', 3, 'dataset.weight: there is no such key'),
        (
            'losses.l1.weight',
            'x',
            'losses.l1.weight=x: expected null (off), 0 (reported only) or a weight above 0',
        ),
        (
            'losses.adv',
            {'weight': 1.0, 'wieght': 3},
            "losses.adv.wieght: there is no such key; did you mean 'weight'?",
        ),
        ('optim.lr', float('inf'), 'optim.lr=inf: expected a learning rate above 0'),
        ('optim.lrr', 1, "optim.lrr: there is no such key; did you mean 'lr'?"),
        (
            'optim.ema.decay',
            1,
            'optim.ema.decay=1: expected a number in [0, 1), or null for no averaged weights',
        ),
        ('checkpoint', 3, 'checkpoint=3: expected a section'),
        ('optim', 3, 'node `optim` is not a container'),
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
        ('datasource.train', 3, 'datasource.train=3: expected a path, or a list such as'),
        (
            'dataset.num_workers',
            10**6,
            'dataset.num_workers=1000000: expected an integer in [0, 1024]',
        ),
        ('channels', True, 'channels=True: expected 1 (mono), 2 (stereo) or up to 64 channels'),
        ('seed', '${sed}', "seed=${sed}: Interpolation key 'sed' not found"),
        ('losses.l1', 3, 'losses.l1=3: expected a section; turn a loss off with losses.l1.weight='),
        ('metrics.mel', None, 'metrics.mel=None: expected a section; turn a metric off with'),
        ('evaluate.metrics.pesqq', True, 'evaluate.metrics.pesqq=True: there is no metrics.pesqq'),
        ('channels', 2, 'datasource.max_channels=1 is below channels=2: a stereo recipe needs'),
        ('logging.warn_codebook_usage', 1.5, 'expected a fraction in [0, 1]'),
    ],
)
def test_a_wrong_value_is_named(plain, key, value, expected):
    base = {'datasource.max_channels': 1} if key == 'channels' else {}
    found = problems(plain, **base, **{key: value})
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ('key', 'expected'),
    [
        ('optim.max_norm', ['optim.max_norm is missing: expected a norm above 0, or null for no']),
        ('losses.l1.weight', ['losses.l1.weight is missing: expected null (off), 0 (reported']),
        ('logging', ['the section logging is missing', 'the section logging.wandb is missing']),
        ('dataset.valid', ['the section dataset.valid is missing']),
    ],
)
def test_a_missing_key_or_section_is_named(plain, key, expected):
    found = problems(plain, **{key: DELETED})
    if key == 'logging':  # of the sections in it, only the outermost is at fault
        expected = expected[:1]
    assert len(found) == len(expected)
    assert all(problem.startswith(start) for start, problem in zip(expected, found))


def test_what_more_than_two_channels_need(plain):
    surround = {'channels': 6, 'datasource.max_channels': 6}
    assert problems(plain, **surround) == []
    assert problems(plain, **surround, **{'evaluate.metrics.loudness': True}) == [
        'evaluate.metrics.loudness=true: loudness is defined for up to 5 channels, not for '
        'channels=6; use evaluate.metrics.loudness=false'
    ]
    assert problems(plain, **{**surround, 'datasource.max_channels': 2}) == [
        'datasource.max_channels=2 is below channels=6: set it to 6 if all files have 6 channels '
        '(or one)'
    ]


def test_sections_that_are_none_prevent_building(plain):
    assert rule_problems(changed(plain, checkpoint=3))[2] is False
    assert rule_problems(changed(plain, channels=70))[2] is False
    assert rule_problems(changed(plain, seed=-1))[2] is True


def test_no_loss_to_train_is_a_problem(plain):
    weights = {f'losses.{name}.weight': 0 for name in plain['losses']}
    message = 'losses: no loss has a weight above 0, nothing would be trained'
    assert problems(plain, **weights) == [message]
    assert problems(plain, **{**weights, 'losses.adv.weight': 1.0}) == []
    alone = {**weights, 'losses.adv.weight': 1.0, 'adversarial.discriminators': {}}
    assert problems(plain, **alone) == [message]


def test_a_schedule_needs_the_length_of_the_run():
    cosine = unresolved('schedule=cosine')
    endless = {'optim.updates_per_epoch': None, 'dataset.train.num_samples': None}
    (found,) = problems(cosine, **endless)
    assert found.startswith(
        'optim.total_updates=None: the schedule audiocodec.optim.CosineSchedule needs'
    )
    assert problems(cosine, **{**endless, 'dataset.train.num_samples': 8000}) == []


def test_a_component_may_have_its_own_value_for_a_key_of_a_shared_section():
    for overrides in (['quantizer.bins=64'], ['encoder.n_filters=3'], ['quantizer=fsq']):
        cfg = train.main.get_xp(['solver=compression/debug', *overrides]).cfg
        assert rule_problems(cfg)[1] == []
