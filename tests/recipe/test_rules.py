"""Rules: what each key accepts, and that every key has a rule or a component."""

import math

import pytest
from omegaconf import OmegaConf

from audiocodec import train
from audiocodec.recipe import rules
from audiocodec.recipe.rules import ACCEPTED, SECTIONS
from audiocodec.utils import config


@pytest.mark.parametrize(
    ('rule', 'accepted', 'refused'),
    [
        (rules.SWITCH, [True, False], [0, 1, None, 'true']),
        (rules.COUNT, [0, 3], [-1, 0.5, True, None, 2**63]),
        (rules.POSITIVE_INTEGER, [1], [0, 1.0, True]),
        (rules.UP_TO_1024, [0, 1024], [-1, 1025]),
        (rules.FRACTION, [0, 0.5, 1], [-0.1, 1.1, math.nan, True]),
        (rules.PATH, [None, 'a'], ['', 3]),
        (rules.TEXTS, [[], ['a']], ['a', None, [1]]),
        (rules.positive('a norm'), [1, 1e-9], [0, -1, math.inf, 'x']),
        (rules.one_of(None, 'a', 'b'), [None, 'a', 'b'], ['c', 'null', 0, ['a']]),
        (rules.one_of('a', 'b'), ['a'], [None]),
        (rules.or_null(rules.COUNT, 'for never'), [None, 0], [-1]),
    ],
)
def test_accepted_values(rule, accepted, refused):
    assert all(rule.check(value) for value in accepted)
    assert not any(rule.check(value) for value in refused)


@pytest.mark.parametrize(
    ('key', 'accepted', 'refused'),
    [
        ('device', ['auto', 'cpu', 'cuda:1', 'mps'], ['tpu', None]),
        ('channels', [1, 2, 6, 64], [0, 65, True, 1.0]),
        ('optim.ema.decay', [None, 0, 0.99], [1, -0.1]),
        ('checkpoint.keep_best', [None, 'valid.mel', 'train.l1'], ['mel', 'generate.x', 'valid.']),
    ],
)
def test_accepted_values_of_keys(key, accepted, refused):
    assert all(ACCEPTED[key].check(value) for value in accepted)
    assert not any(ACCEPTED[key].check(value) for value in refused)


def test_rules_say_what_they_accept():
    assert rules.one_of(None, 'a', 'b').accepted == 'null, a or b'
    assert rules.positive('a norm').accepted == 'a norm above 0'
    assert rules.PATH.accepted == 'a path, or null for none'
    assert rules.PATH.kind == 'path'


def test_every_key_has_a_rule_or_belongs_to_a_component():
    cfg = train.main.get_xp([]).cfg
    named = [*ACCEPTED, *SECTIONS]
    assert [key for key in named if OmegaConf.select(cfg, key, default='absent') == 'absent'] == []
    components = (
        'model.',
        'encoder.',
        'decoder.',
        'quantizer.',
        'adversarial.',
        'losses.',
        'balancer.',
        'metrics.',
        'dataset.',
        'seanet.',
        'rvq.',
        'slurm.',
        'dora.',
        'optim.optimizer.',
        'optim.schedule.',
        'evaluate.metrics.',
    )
    keys = [key for key, _ in config.leaf_items(OmegaConf.to_container(cfg, resolve=True))]
    without_rule = [key for key in keys if key not in ACCEPTED]
    assert [key for key in without_rule if not key.startswith(components)] == []
