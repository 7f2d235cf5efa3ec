"""Replaced classes: arguments of the old class are dropped unless the new one takes them."""

import pytest
import torch
from omegaconf import OmegaConf

from audiocodec import train
from audiocodec.recipe.parts import build_parts
from audiocodec.utils.config import ConfigError, build

DEBUG = 'solver=compression/debug'


def compose(*overrides):
    cfg = train.main.get_xp([DEBUG, *overrides]).cfg
    build_parts(cfg)
    return cfg


@pytest.mark.parametrize(
    ('overrides', 'params'),
    [
        (['seanet.activation=SiLU'], {}),
        (['seanet.activation=Tanh'], {}),
        (['seanet.activation=PReLU'], {}),
        (['seanet.activation=LeakyReLU'], {}),
        (['seanet.activation=SiLU', 'seanet.activation_params={}'], {}),
        (
            ['seanet.activation=LeakyReLU', 'seanet.activation_params={negative_slope: 0.2}'],
            {'negative_slope': 0.2},
        ),
        (
            ['seanet.activation=LeakyReLU', 'seanet.activation_params.negative_slope=0.2'],
            {'negative_slope': 0.2},
        ),
        (
            ['seanet.activation_params.negative_slope=0.2', 'seanet.activation=LeakyReLU'],
            {'negative_slope': 0.2},
        ),
        (['seanet.activation=SiLU', '~seanet.activation_params.alpha'], {}),
        (['seanet.activation=CELU', 'seanet.activation_params.alpha=1.0'], {'alpha': 1.0}),
        (['seanet.activation_params={alpha: 0.5}'], {'alpha': 0.5}),
    ],
)
def test_an_activation_leaves_the_parameters_of_the_other(overrides, params):
    cfg = compose(*overrides)
    assert OmegaConf.to_container(cfg.seanet.activation_params) == params
    model = build(cfg.model)
    names = {type(module).__name__ for module in model.modules()}
    assert cfg.seanet.activation in names
    assert model(torch.zeros(1, 1, 640)).wav.shape == (1, 1, 640)


def test_the_encoder_alone_can_have_another_activation():
    cfg = compose('encoder.activation=SiLU')
    assert 'activation_params' not in cfg.encoder
    assert cfg.decoder.activation_params == {'alpha': 1.0}


def test_discriminators_too():
    key = 'adversarial.discriminators.msstftd'
    cfg = compose('adversarial=msstftd', f'{key}.activation=GELU')
    assert OmegaConf.select(cfg, key).activation_params == {}


@pytest.mark.parametrize(
    ('overrides', 'cls', 'kept'),
    [
        (
            ['optim.optimizer._target_=torch.optim.SGD'],
            torch.optim.SGD,
            {'lr', 'weight_decay', 'fused'},
        ),
        (
            ['optim.optimizer._target_=torch.optim.RAdam'],
            torch.optim.RAdam,
            {'lr', 'weight_decay', 'betas'},
        ),
        (
            ['optim.optimizer={_target_: torch.optim.SGD, lr: 0.01}'],
            torch.optim.SGD,
            {'lr', 'weight_decay', 'fused'},
        ),
        (
            ['optim.optimizer.momentum=0.9', 'optim.optimizer._target_=torch.optim.SGD'],
            torch.optim.SGD,
            {'lr', 'weight_decay', 'fused', 'momentum'},
        ),
        (
            ['optim.optimizer._target_=torch.optim.AdamW'],
            torch.optim.AdamW,
            {'lr', 'weight_decay', 'betas', 'fused'},
        ),
    ],
)
def test_an_optimizer_keeps_what_it_takes(overrides, cls, kept):
    cfg = compose(*overrides)
    assert set(cfg.optim.optimizer) == kept | {'_target_'}
    assert type(build(cfg.optim.optimizer, params=[torch.nn.Parameter(torch.zeros(1))])) is cls


def test_the_discriminators_optimizer_too():
    cfg = compose('adversarial=msstftd', 'adversarial.optimizer._target_=torch.optim.SGD')
    assert set(cfg.adversarial.optimizer) == {
        '_target_',
        '_partial_',
        'lr',
        'weight_decay',
        'fused',
    }


@pytest.mark.parametrize(
    ('overrides', 'expected'),
    [
        (['losses.l1._target_=torch.nn.SmoothL1Loss'], {'weight': 0.1}),
        (['losses.l1={_target_: torch.nn.HuberLoss, delta: 0.5}'], {'weight': 0.1, 'delta': 0.5}),
        (['losses.mel._target_=torch.nn.MSELoss'], {'weight': 0.0}),
        (
            ['losses.msspec._target_=audiocodec.losses.MelSpectrogramL1Loss'],
            {
                'weight': 2.0,
                'sample_rate': 16000,
                'n_mels': 64,
                'f_min': 64.0,
                'f_max': None,
                'normalized': True,
                'floor_level': 1e-5,
            },
        ),
    ],
)
def test_a_loss_takes_the_place_of_another(overrides, expected):
    cfg = compose(*overrides)
    name = overrides[0].split('.')[1].split('=')[0]
    found = OmegaConf.to_container(cfg.losses[name], resolve=True)
    assert {key: value for key, value in found.items() if key != '_target_'} == expected


def test_a_schedule_and_a_metric_too():
    cfg = compose(
        'schedule=cosine',
        'optim.schedule._target_=torch.optim.lr_scheduler.ExponentialLR',
        'optim.schedule.gamma=0.99',
    )
    assert set(cfg.optim.schedule) == {'_target_', '_partial_', 'gamma'}
    cfg = compose('metrics.sisnr._target_=audiocodec.metrics.MelDistance')
    assert set(cfg.metrics.sisnr) == {'_target_'}


@pytest.mark.parametrize(
    ('recipe', 'option', 'key', 'left'),
    [
        ('codec_small_24khz', 'schedule=constant', 'optim.schedule', {'factor', 'total_iters'}),
        ('codec_small_24khz', 'adversarial=none', 'adversarial.discriminators', set()),
        ('encodec_small_24khz', 'adversarial=mpd', 'adversarial.discriminators', {'mpd'}),
        ('wavtokenizer_24khz', 'adversarial=msd', 'adversarial.discriminators', {'msd'}),
        ('mimi_24khz', 'quantizer=fsq', 'quantizer', {'dimension', 'levels'}),
    ],
)
def test_an_option_replaces_what_a_recipe_sets_for_another(recipe, option, key, left):
    cfg = train.main.get_xp([f'solver=compression/{recipe}', option]).cfg
    build_parts(cfg)
    assert OmegaConf.select(cfg, key).keys() - {'_target_', '_partial_'} == left


def test_an_option_keeps_what_a_recipe_sets_for_both():
    cfg = train.main.get_xp(['solver=compression/codec_24khz', 'schedule=cosine']).cfg
    assert cfg.optim.schedule.lr_min_ratio == 0.01
    cfg = train.main.get_xp(['solver=compression/codec_24khz', 'adversarial=msd']).cfg
    assert cfg.adversarial.init == 'lecun_normal'


def test_with_an_option_a_typed_argument_is_refused_too():
    with pytest.raises(ConfigError, match=r'optim\.schedule\.warmup_steps'):
        train.main.get_xp(
            [
                'solver=compression/codec_24khz',
                'schedule=constant',
                'optim.schedule.warmup_steps=20',
            ]
        )


@pytest.mark.parametrize(
    ('recipe', 'schedule'),
    [('encodec_base_24khz', 'constant'), ('debug', 'linear_warmup'), ('dac_44khz', 'step')],
)
def test_an_option_beside_an_added_training_is_an_option_of_its_recipe(recipe, schedule):
    chosen = [f'solver=compression/{recipe}', '+training=codec', f'schedule={schedule}']
    cfgs = [train.main.get_xp(argv).cfg for argv in (chosen, chosen[::-1])]
    for cfg in cfgs:
        build_parts(cfg)
        assert cfg.optim.optimizer._target_ == 'audiocodec.optim.Muon'
        assert cfg.adversarial.init == 'lecun_normal'
        assert cfg.optim == cfgs[0].optim
    expected = train.main.get_xp(['solver=compression/codec_24khz', f'schedule={schedule}']).cfg
    assert cfgs[0].optim.schedule.keys() == expected.optim.schedule.keys()


@pytest.mark.parametrize(
    ('option', 'typed'),
    [
        ('quantizer=simvq', 'rvq.bins=64'),
        ('quantizer=fsq', 'rvq.n_q=4'),
        ('quantizer=fsq', 'rvq.decay=0.9'),
        ('model=snac', 'seanet.n_filters=4'),
        ('model=snac', 'seanet.activation_params.alpha=0.5'),
    ],
)
def test_keys_that_an_option_does_not_read_are_refused(option, typed):
    recipe = 'solver=compression/codec_small_24khz'
    with pytest.raises(ConfigError, match=f"there is no key '{typed.split('=')[0]}'"):
        train.main.get_xp([recipe, option, typed])
    build_parts(train.main.get_xp([recipe, typed]).cfg)


def test_only_keys_that_sections_share_are_dropped():
    cfg = train.main.get_xp(['solver=compression/codec_small_24khz', 'model=snac']).cfg
    assert set(cfg.seanet) == {'dimension'}  # of the quantizer
    constant = 'optim.schedule._target_=torch.optim.lr_scheduler.ConstantLR'
    cfg = train.main.get_xp([DEBUG, 'schedule=cosine', constant]).cfg
    assert 'total_steps' not in cfg.optim.schedule
    assert 'total_updates' in cfg.optim  # which the solver reads, too


def test_a_typed_key_that_a_typed_class_does_not_read_is_refused():
    classes = ['quantizer._target_=audiocodec.quantization.FiniteScalarQuantizer']
    assert 'rvq' not in compose(*classes, 'quantizer.levels=[4,4]')
    with pytest.raises(ConfigError, match=r'rvq\.bins=16: nothing reads rvq\.bins any more'):
        compose(*classes, 'quantizer.levels=[4,4]', 'rvq.bins=16')


def test_keys_that_both_options_read_are_kept():
    cfg = train.main.get_xp(
        ['solver=compression/codec_small_24khz', 'quantizer=fsq', 'seanet.dimension=16']
    ).cfg
    assert 'rvq' not in cfg
    build_parts(cfg)
    assert cfg.quantizer.dimension == 16


def test_an_argument_that_was_typed_is_refused_not_dropped():
    refused = r"torch.optim.SGD has no argument 'betas'|no key 'optim.optimizer.betas'"
    for typed in ('optim.optimizer.betas=[0.5,0.9]', 'optim.optimizer={betas: [0.5,0.9]}'):
        with pytest.raises(ConfigError, match=refused):
            compose('optim.optimizer._target_=torch.optim.SGD', typed)
    with pytest.raises(ConfigError, match='do not fit the activation SiLU'):
        compose('seanet.activation=SiLU', 'seanet.activation_params.alpha=1.0')


def recipe(folder, text):
    path = folder / 'solver' / 'compression' / 'mine.yaml'
    path.write_text(text)


def test_a_recipe_of_ones_own_chooses_other_classes(config_folder):
    recipe(
        config_folder,
        '# @package _global_\n'
        'defaults:\n  - compression/debug\n  - _self_\n'
        'seanet: {activation: SiLU, activation_params: {}}\n'
        'losses: {l1: {_target_: torch.nn.HuberLoss, delta: 0.5}}\n'
        'optim: {optimizer: {_target_: torch.optim.RMSprop, alpha: 0.9}}\n',
    )
    cfg = train.main.get_xp(['solver=compression/mine']).cfg
    build_parts(cfg)
    assert cfg.seanet.activation_params == {}
    assert set(cfg.optim.optimizer) == {'_target_', 'lr', 'weight_decay', 'alpha'}
    again = train.main.get_xp(
        ['solver=compression/mine', 'optim.optimizer._target_=torch.optim.SGD']
    ).cfg
    build_parts(again)
    assert set(again.optim.optimizer) == {'_target_', 'lr', 'weight_decay'}
