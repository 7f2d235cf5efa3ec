"""Comparison of a recipe with a checkpoint, and the overrides that make them equal."""

import functools
import shlex

import pytest

from audiocodec import train
from audiocodec.models.formats import hf
from audiocodec.recipe.diff import Changes, check_model, differences
from audiocodec.utils import config
from audiocodec.utils.config import ConfigError

# `config.json` of the published models, where it differs from the defaults of transformers
PUBLISHED = {
    'encodec_base_24khz': {},
    'encodec_musicgen_32khz': {
        'sampling_rate': 32000,
        'upsampling_ratios': [8, 5, 4, 4],
        'num_filters': 64,
        'use_causal_conv': False,
        'codebook_size': 2048,
        'target_bandwidths': [2.2],
        'use_conv_shortcut': False,
    },
    'encodec_stereo_48khz': {
        'sampling_rate': 48000,
        'audio_channels': 2,
        'normalize': True,
        'chunk_length_s': 1.0,
        'overlap': 0.01,
        'norm_type': 'time_group_norm',
        'use_causal_conv': False,
        'target_bandwidths': [3.0, 6.0, 12.0, 24.0],
    },
}


@functools.cache
def recipe(name, *overrides):
    return train.main.get_xp([f'solver=compression/{name}', 'dset=audio/example', *overrides]).cfg


NOTHING = Changes(training='', model='')


def problem(cfg, node, source='//pretrained/NAME'):
    with pytest.raises(ConfigError) as error:
        check_model(cfg, node, source)
    return str(error.value)


def suggested(text):
    return shlex.split(text.split('To fine-tune the checkpoint, add: ')[1])


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('encodec_base_24khz', ['seanet.pad_mode=reflect', 'seanet.true_skip=false']),
        ('encodec_musicgen_32khz', ['seanet.pad_mode=reflect']),
        (
            'encodec_stereo_48khz',
            ['+model.segment_duration=1.0', 'seanet.pad_mode=reflect', 'seanet.true_skip=false'],
        ),
    ],
)
def test_the_recipes_need_few_overrides_for_the_published_models(name, expected):
    node = hf.model_config(PUBLISHED[name])
    assert suggested(problem(recipe(name), node)) == expected
    assert check_model(recipe(name, *expected), node, '') == NOTHING


def test_every_difference_is_named_at_once_as_it_is_typed_and_the_overrides_match_them():
    node = hf.model_config(PUBLISHED['encodec_stereo_48khz'])
    node['decoder']['trim_right_ratio'] = 0.5  # no matter to a model that is not causal
    node['encoder']['last_kernel_size'] = 5
    text = problem(recipe('debug'), node, '//pretrained/facebook/encodec_48khz')
    head, *lines, note, _ = text.splitlines()
    assert note == '  sample_rate, rvq.n_q may differ: the weights would be adapted'
    assert head.startswith(
        'continue_from=//pretrained/facebook/encodec_48khz: the model of the recipe differs'
    )
    assert head.endswith('from that of the checkpoint in 15 options:')
    assert lines == [
        '  model.renormalize=false: the checkpoint has true',
        '  model.segment_duration=null: the checkpoint has 1.0',
        '  channels=1: the checkpoint has 2',
        '  seanet.dimension=32: the checkpoint has 128',
        '  seanet.n_filters=4: the checkpoint has 32',
        '  seanet.n_residual_layers=0: the checkpoint has 1',
        '  seanet.norm=weight_norm: the checkpoint has time_group_norm',
        '  encoder.last_kernel_size=7: the checkpoint has 5',
        '  seanet.causal=true: the checkpoint has false',
        '  seanet.pad_mode=constant: the checkpoint has reflect',
        '  seanet.true_skip=true: the checkpoint has false',
        '  seanet.lstm=0: the checkpoint has 2',
        '  rvq.bins=256: the checkpoint has 1024',
        '  sample_rate=16000: the checkpoint has 48000',
        '  rvq.n_q=8: the checkpoint has 16',
    ]
    assert check_model(recipe('debug', *suggested(text)), node, '') == NOTHING


def test_lists_mappings_and_other_classes_are_typed_as_hydra_reads_them():
    cfg = recipe('encodec_base_24khz')
    node = recipe(
        'encodec_base_24khz',
        'seanet.ratios=[8,4,4]',
        'seanet.activation_params={alpha:0.5}',
        'decoder.final_activation=Tanh',
        'quantizer=none',
    ).model
    node = config.to_plain(node)
    overrides = suggested(problem(cfg, node))
    assert set(overrides) == {
        'seanet.ratios=[8,4,4]',
        'seanet.activation_params.alpha=0.5',
        'decoder.final_activation=Tanh',
        'quantizer=none',
    }
    assert check_model(recipe('encodec_base_24khz', *overrides), node, '') == NOTHING
    other = {**config.to_plain(cfg.model), 'encoder': {'_target_': 'torch.nn.Identity'}}
    assert suggested(problem(cfg, other)) == ['encoder._target_=torch.nn.Identity']


def test_what_is_left_out_counts_as_the_default_of_the_constructor():
    cfg = recipe('encodec_base_24khz')
    node = config.to_plain(cfg.model)
    del node['encoder']['n_filters'], node['encoder']['dilation_base'], node['renormalize']
    assert check_model(cfg, node, '') == NOTHING
    del node['encoder']['n_residual_layers']  # 3 by default
    assert suggested(problem(cfg, node)) == ['encoder.n_residual_layers=3']


def test_how_it_learns_may_differ_and_is_told():
    cfg = recipe(
        'encodec_base_24khz',
        'rvq.q_dropout=false',
        'rvq.decay=0.9',
        'seed=3',
        'rvq.kmeans_iters=7',
        'seanet.init=lecun_normal',
    )
    node = config.to_plain(recipe('encodec_base_24khz').model)
    expected = 'rvq.q_dropout=false (checkpoint: true), rvq.decay=0.9 (checkpoint: 0.99)'
    assert check_model(cfg, node, '') == Changes(expected, '')


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [
        ({'activation_params': None}, {'activation_params': {'alpha': 1.0}}),
        ({'ratios': (8, 5)}, {'ratios': [8, 5]}),
        ({'norm': 'weight_norm', 'norm_params': None}, {'norm': 'weight_norm', 'norm_params': {}}),
        (
            {'norm': 'time_group_norm', 'norm_params': {}},
            {'norm': 'time_group_norm', 'norm_params': {'eps': 1e-5}},
        ),
    ],
)
def test_two_ways_to_say_the_same_are_no_difference(ours, theirs):
    target = {'_target_': 'audiocodec.modules.SEANetEncoder'}
    assert list(differences({**target, **ours}, {**target, **theirs})) == []
