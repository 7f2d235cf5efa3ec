import pytest
from torch import nn

from audiocodec.models import EncodecModel, options
from audiocodec.modules import SEANetDecoder, SEANetEncoder


def test_options_include_defaults_and_leave_out_the_parts(make_codec):
    found = options.options_of(make_codec(), 'hf')
    assert found.model == {
        'sample_rate': 8000,
        'channels': 1,
        'renormalize': False,
        'segment_duration': None,
        'overlap': 0.01,
    }
    assert (found.encoder['n_filters'], found.encoder['activation']) == (4, 'ELU')
    assert 'trim_right_ratio' in found.decoder
    assert 'trim_right_ratio' not in found.encoder
    assert (found.quantizer['n_q'], found.quantizer['decay']) == (4, 0.99)


def test_a_continuous_autoencoder_has_no_options_of_a_quantizer(make_codec):
    model = make_codec()
    node = {'_target_': 'audiocodec.quantization.NoQuantizer', 'dimension': 8}
    model.built_from = {**model.built_from, 'quantizer': node}
    assert options.options_of(model, 'hf').quantizer == {}


def test_models_without_a_configuration_or_with_other_parts_are_refused(make_codec):
    model = make_codec()
    by_hand = EncodecModel(model.encoder, model.decoder, model.quantizer, 8000, 1)
    with pytest.raises(
        ValueError, match=r"the format 'hf' does not support .*not built from a conf"
    ):
        options.node_of(by_hand, 'hf')
    model.built_from = {
        **model.built_from,
        'encoder': {'_target_': 'torch.nn.Identity'},
        'decoder': {'_target_': 'torch.nn.Flatten'},
    }
    with pytest.raises(
        ValueError,
        match=r'encoder\._target_=torch\.nn\.Identity, only SEANetEncoder is supported; '
        r'decoder\._target_=torch\.nn\.Flatten, only SEANetDecoder is supported$',
    ):
        options.options_of(model, 'hf')
    model.built_from = {'_target_': 'torch.nn.Identity'}
    with pytest.raises(ValueError, match=r'only audiocodec\.models\.EncodecModel is supported'):
        options.options_of(model, 'hf')


def test_nothing_is_refused_without_problems():
    options.refuse('hf', [])
    with pytest.raises(ValueError, match=r"^the format 'hf' does not support this model: a=1; b$"):
        options.refuse('hf', ['a=1', 'b'])


def test_arguments_at_their_default_are_not_problems():
    arguments = {'n_filters': 8, 'lstm': 3, 'causal': False, 'other': 1}
    problems = options.changed('encoder', SEANetEncoder, arguments, known={'n_filters'})
    assert problems == ['encoder.lstm=3 is not supported', 'encoder.other=1 is not supported']


def test_a_node_is_spelled_out_with_its_nested_nodes():
    nested = {'_target_': 'torch.nn.Identity'}
    target, arguments = options.spell_out(
        {'_target_': 'torch.nn.Linear', 'in_features': nested, 'bias': False}
    )
    assert target is nn.Linear
    assert (arguments['in_features'], arguments['bias']) == (nested, False)
    assert arguments['device'] is None
    assert 'out_features' not in arguments
    decoder, _ = options.spell_out({'_target_': 'audiocodec.modules.SEANetDecoder'})
    assert decoder is SEANetDecoder
