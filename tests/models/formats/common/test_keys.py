import re

import pytest
import torch

from audiocodec.models.formats.common.keys import load_weights, make_model, translate

CODEBOOK = re.compile(r'book\.(\d+)\.(embed|inited)')


def test_codebooks_are_stacked_in_the_order_of_their_numbers_and_norms_renamed():
    state = {
        'book.1.embed': torch.full((3, 2), 1.0),
        'book.0.embed': torch.zeros(3, 2),
        'book.0.inited': torch.tensor([1.0]),
        'book.1.inited': torch.tensor([0.0]),
        'a.weight_g': torch.ones(1),
        'a.weight_v': torch.ones(2),
        'a.bias': torch.ones(3),
    }
    found = translate(state, CODEBOOK)
    assert found['quantizer.codebooks.embed'].tolist() == [[[0.0, 0.0]] * 3, [[1.0, 1.0]] * 3]
    assert found['quantizer.codebooks.inited'].tolist() == [1.0, 0.0]
    assert set(found) - {'quantizer.codebooks.embed', 'quantizer.codebooks.inited'} == {
        'a.parametrizations.weight.original0',
        'a.parametrizations.weight.original1',
        'a.bias',
    }


@pytest.mark.parametrize(
    ('state', 'message'),
    [
        ({'a': 3}, '^a among the weights is not a tensor but int$'),
        ({'book.1.embed': torch.ones(2)}, r'numbered from 0 and .*, got \{1: \[2\]\}$'),
        (
            {'book.0.embed': torch.ones(2), 'book.1.embed': torch.ones(3)},
            r'have the same shape, got \{0: \[2\], 1: \[3\]\}$',
        ),
    ],
)
def test_incomplete_weights_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        translate(state, CODEBOOK)


def test_missing_statistics_start_as_if_every_entry_had_been_selected_once(make_codec):
    model = make_codec()
    state = model.state_dict()
    embed = state['quantizer.codebooks.embed'] + 1
    for name in list(state):
        if name.startswith('quantizer.codebooks.'):
            del state[name]
    state['quantizer.codebooks.embed'] = embed
    load_weights(model, state)
    books = model.quantizer.codebooks
    assert torch.equal(books.embed, embed)
    assert torch.equal(books.embed_avg, embed)
    assert (books.cluster_size == 1).all()
    assert books.inited.all()


def test_every_problem_of_weights_is_named_and_nothing_is_loaded(make_codec):
    model = make_codec()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    del state['encoder.model.0.conv.conv.bias']
    state['extra'] = torch.ones(1)
    state['quantizer.codebooks.embed'] = torch.ones(1, 2, 3)
    state['decoder.model.0.conv.conv.bias'] = [1.0]
    with pytest.raises(ValueError, match=r'^the weights do not fit the configuration: ') as error:
        load_weights(model, state)
    text = str(error.value)
    for part in (
        '1 missing (encoder.model.0.conv.conv.bias)',
        '1 unexpected (extra)',
        '1 not tensors (decoder.model.0.conv.conv.bias)',
        '1 of another shape (quantizer.codebooks.embed [1, 2, 3] instead of [4, 32, 8])',
    ):
        assert part in text
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_model_is_built_in_eval_mode(make_codec):
    model = make_codec()
    state = model.state_dict()
    found = make_model(model.built_from, state)
    assert not found.training
    for name, value in found.state_dict().items():
        assert torch.equal(value, state[name])
    with pytest.raises(ValueError, match=r'describes a Identity, expected a CompressionModel$'):
        make_model({'_target_': 'torch.nn.Identity'}, {})
