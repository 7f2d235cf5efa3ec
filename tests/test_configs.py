"""Shipped configurations compose, validate and build; published recipes do not change."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from audiocodec import train
from audiocodec.recipe.parts import build_parts
from audiocodec.utils.config import ConfigError, build

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(
    str(path.relative_to(ROOT / 'config/solver').with_suffix(''))
    for path in (ROOT / 'config/solver').rglob('*.yaml')
)
GROUPS = {
    group: sorted(
        path.stem for path in (ROOT / 'config' / group).glob('*.yaml') if path.stem[0] != '_'
    )
    for group in ('adversarial', 'quantizer', 'schedule')
}

# Published figures: sample rate, channels, causal, renormalize, norm, n_filters, hop length, frame
# rate, n_q, bins, q_dropout.
FIGURES = {
    'compression/encodec_base_24khz': (
        24000,
        1,
        True,
        False,
        'weight_norm',
        32,
        320,
        75,
        32,
        1024,
        True,
    ),
    'compression/encodec_musicgen_32khz': (
        32000,
        1,
        False,
        False,
        'weight_norm',
        64,
        640,
        50,
        4,
        2048,
        False,
    ),
    'compression/encodec_audiogen_16khz': (
        16000,
        1,
        False,
        False,
        'weight_norm',
        64,
        320,
        50,
        4,
        2048,
        False,
    ),
    'compression/encodec_stereo_48khz': (
        48000,
        2,
        False,
        True,
        'time_group_norm',
        32,
        320,
        150,
        16,
        1024,
        True,
    ),
}


def compose(*overrides):
    return train.main.get_xp(overrides).cfg


@pytest.mark.slow
@pytest.mark.parametrize('recipe', RECIPES)
def test_recipe_composes_validates_and_builds(recipe):
    cfg = compose(f'solver={recipe}')
    build_parts(cfg)
    model = build(cfg.model)
    assert model.sample_rate == cfg.sample_rate
    stride = cfg.transformer.stride if 'transformer' in cfg else 1
    ratios = cfg.seanet.ratios if 'seanet' in cfg else cfg.encoder.ratios
    assert model.hop_length == math.prod(ratios) * stride


@pytest.mark.slow
@pytest.mark.parametrize('recipe', FIGURES)
def test_recipe_has_the_published_figures(recipe):
    cfg = compose(f'solver={recipe}')
    seanet, rvq = cfg.seanet, cfg.rvq
    hop = math.prod(seanet.ratios)
    assert FIGURES[recipe] == (
        cfg.sample_rate,
        cfg.channels,
        seanet.causal,
        cfg.model.renormalize,
        seanet.norm,
        seanet.n_filters,
        hop,
        cfg.sample_rate / hop,
        rvq.n_q,
        rvq.bins,
        rvq.q_dropout,
    )
    assert (seanet.dimension, seanet.lstm, seanet.kernel_size, seanet.compress) == (128, 2, 7, 2)
    assert (rvq.decay, rvq.kmeans_iters, rvq.threshold_ema_dead_code) == (0.99, 50, 2)
    assert (cfg.dataset.batch_size, cfg.dataset.segment_duration) == (64, 1.0)
    assert (cfg.optim.updates_per_epoch, cfg.optim.epochs, cfg.optim.lr) == (2000, 200, 3e-4)
    assert list(cfg.optim.optimizer.betas) == [0.5, 0.9]
    assert {name: node.weight for name, node in cfg.losses.items() if node.weight} == {
        'adv': 4.0,
        'feat': 4.0,
        'l1': 0.1,
        'msspec': 2.0,
        'commitment': 1.0,
    }
    assert (cfg.balancer.ema_decay, cfg.optim.ema.decay, cfg.optim.ema.every) == (0.999, 0.99, 1)
    assert (
        cfg.checkpoint.save_every,
        cfg.checkpoint.keep_last,
        cfg.evaluate.every,
        cfg.generate.every,
    ) == (25, 10, 25, 25)
    assert (cfg.dataset.generate.num_samples, cfg.dataset.generate.segment_duration) == (50, 10.0)


def test_mimi_has_the_published_figures():
    cfg = compose('solver=compression/mimi_24khz')
    model = build(cfg.model)
    assert (model.sample_rate, model.channels, model.frame_rate) == (24000, 1, 12.5)
    assert (model.total_codebooks, model.cardinality, model.bandwidth) == (8, 2048, 1.1)
    assert (cfg.dataset.batch_size, cfg.dataset.segment_duration) == (128, 12.0)
    assert (cfg.optim.total_updates, cfg.optim.lr, cfg.optim.ema.decay) == (4_000_000, 8e-4, 0.99)
    assert (cfg.optim.optimizer.weight_decay, cfg.optim.optimizer.betas) == (0.05, [0.5, 0.9])
    assert cfg.losses.distill.weight is None


@pytest.mark.parametrize('recipe', RECIPES)
def test_published_recipes_are_append_only(recipe):
    """A changed recipe needs a new file: experiments of a published one must stay reproducible.

    A new key whose default changes nothing may be recorded.
    """
    plain = OmegaConf.to_container(compose(f'solver={recipe}'), resolve=True)
    hashed = {key: value for key, value in flat(plain) if not train.main.dora.is_excluded(key)}
    published = yaml.safe_load((ROOT / 'tests/fixtures/recipes.yaml').read_text())
    assert digest(hashed) == published[recipe], (
        f'{recipe} changed: publish it under a new name, or record {digest(hashed)} if it computes '
        'the same'
    )


def flat(node, prefix=''):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def digest(values):
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('group', 'option'), [(group, option) for group in GROUPS for option in GROUPS[group]]
)
def test_every_option_of_every_group_is_accepted(group, option):
    if option == 'cqt':
        pytest.importorskip('nnAudio')
    cfg = compose('solver=compression/debug', f'{group}={option}')
    build_parts(cfg)
    if group == 'adversarial':
        composed = {'none': set(), 'dac': {'mpd', 'mbstft'}, 'vocos': {'mpd', 'mrd'}}
        names = composed.get(option, set(option.split('_')))
        assert set(build(cfg.adversarial).discriminators) == names
    elif group == 'quantizer':
        quantizer = build(cfg.quantizer)
        assert quantizer.dimension == cfg.encoder.dimension
        assert (quantizer.total_codebooks == 0) == (option in ('none', 'noise', 'vae'))
        assert set(quantizer.loss_terms) == {
            name for name in cfg.losses if name in ('commitment', 'codebook', 'entropy', 'kl')
        }
    else:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim.lr)
        (lr,) = build(cfg.optim.schedule)(optimizer).get_last_lr()
        assert 0 <= lr <= cfg.optim.lr


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    ['cosine', 'warmup_stable_decay', 'polynomial_decay', 'linear_warmup', 'inverse_sqrt'],
)
def test_schedules_know_the_length_of_the_run(name):
    """In the debug recipe's 280 updates, warm-up ends after the first, and decay at the last."""
    cfg = compose('solver=compression/debug', f'schedule={name}')
    assert cfg.optim.total_updates == 280
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build(cfg.optim.schedule)(optimizer)
    rates = []
    for _ in range(280):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]['lr'])
    assert rates[0] == pytest.approx(2**-0.5 if name == 'inverse_sqrt' else 1.0, abs=0.01)
    middle = {'cosine': 0.5, 'polynomial_decay': 0.5, 'warmup_stable_decay': 1.0}
    if name in middle:
        assert rates[139] == pytest.approx(middle[name], abs=0.01)
        assert rates[-1] == pytest.approx(0.0, abs=1e-6)


def test_the_published_warm_up_is_that_of_the_published_length():
    cfg = compose('solver=compression/encodec_base_24khz', 'schedule=cosine')
    assert (cfg.optim.schedule.total_steps, cfg.optim.schedule.warmup_steps) == (400000, 1000)
    shorter = compose('solver=compression/debug', 'schedule=cosine', 'optim.total_updates=99')
    assert shorter.optim.schedule.total_steps == 99


@pytest.mark.parametrize(
    ('overrides', 'expected'),
    [
        (['solver=compression/debg'], "did you mean 'compression/debug'?"),
        (
            ['dataset.bach_size=8'],
            "there is no key 'dataset.bach_size'; did you mean 'dataset.batch_size'?",
        ),
        (['rvq.n_q=0'], 'rvq.n_q=0: at least 1 codebook is needed'),
        (['encoder.ratios=[8,5,4]'], 'hop_length must be the same in all parts of a model'),
        (
            ['seanet.ratios=[8,0]'],
            'seanet.ratios=[8, 0]: expected a non-empty list of integers >= 1',
        ),
        (['datasource.downmix=right'], 'datasource.downmix=right: expected mean, left'),
        (['datasource.min_sample_rate=0'], 'datasource.min_sample_rate=0: expected'),
        (
            ['solver=compression/encodec_stereo_48khz', 'datasource.max_channels=1'],
            'a stereo recipe needs stereo data',
        ),
        (
            ['losses.mel.sample_rate=8000'],
            'losses.mel.sample_rate=8000: must agree with sample_rate=16000',
        ),
        (['losses.l1.weight=-1'], 'losses.l1.weight=-1: expected null (off), 0 (reported only)'),
        (['optim.epochs=many'], 'optim.epochs=many: expected a positive integer'),
        (['losses.l1._target_=torch.nn.L1Los'], "did you mean 'L1Loss'?"),
        (['seanet=3'], "'seanet' is a section"),
        (['~losses'], '~losses: every run needs the section losses'),
        (['~losses.l3'], "there is no key 'losses.l3'"),
        (['losses.l1=null'], 'losses.l1.weight=null'),
        (['justaword'], 'expected key=value'),
        (['execute_only=train'], 'execute_only=train: expected null, evaluate, generate or valid'),
        (['device=tpu'], 'device=tpu: expected auto, cpu, cuda'),
        (
            ['evaluate.metrics.visqol=1', '+evaluate.metrics.pesqq=true'],
            'evaluate.metrics.pesqq=True',
        ),
    ],
)
def test_problems_name_key_value_and_cure(overrides, expected):
    if not any(override.startswith('solver=') for override in overrides):
        overrides = ['solver=compression/debug', *overrides]
    with pytest.raises(ConfigError) as error:
        build_parts(compose(*overrides))
    assert expected in str(error.value)


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError) as error:
        build_parts(compose('solver=compression/debug', 'rvq.n_q=0', 'optim.lr=0', 'channels=3'))
    assert len(error.value.problems) >= 3


def test_signature_ignores_keys_that_do_not_change_the_result():
    base = train.main.get_xp(['solver=compression/debug'])
    same = train.main.get_xp(
        [
            'solver=compression/debug',
            'device=cpu',
            'dataset.num_workers=0',
            'optim.epochs=99',
            'generate.every=1',
            'dataset.generate.num_samples=2',
            'logging.log_updates=3',
        ]
    )
    other = train.main.get_xp(['solver=compression/debug', 'optim.lr=1e-3'])
    rate = train.main.get_xp(['solver=compression/debug', 'sample_rate=24000'])
    assert base.sig == same.sig
    assert len({base.sig, other.sig, rate.sig}) == 3
