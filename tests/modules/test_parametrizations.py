import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from audiocodec.modules import NormConv1d, NormConvTranspose1d
from audiocodec.modules.parametrizations import PicklableModule, fold, make_picklable


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Parent(PicklableModule):
    def __init__(self, part):
        super().__init__()
        self.part = part
        self.same_part = part


def lstm():
    """LSTM with two parametrized weights, one of them parametrized twice."""
    module = nn.LSTM(3, 4)
    parametrizations.weight_norm(module, 'weight_hh_l0')
    parametrize.register_parametrization(module, 'weight_ih_l0', Double())
    parametrize.register_parametrization(module, 'weight_ih_l0', Double())
    return module


PARTS = {
    'weight_norm': lambda: parametrizations.weight_norm(nn.Conv1d(3, 4, 5)),
    'weight_norm over another dimension': lambda: parametrizations.weight_norm(
        nn.Conv1d(3, 4, 5), dim=2
    ),
    'weight_norm of the whole': lambda: parametrizations.weight_norm(nn.Linear(6, 4), dim=None),
    'spectral_norm': lambda: parametrizations.spectral_norm(nn.Conv1d(3, 4, 5)),
    'orthogonal': lambda: parametrizations.orthogonal(nn.Linear(6, 4)),
    'ours': lambda: NormConv1d(3, 4, 5, norm='weight_norm'),
    'ours, transposed': lambda: NormConvTranspose1d(3, 4, 5, norm='spectral_norm'),
}


@pytest.mark.parametrize('name', PARTS)
def test_unpickled_modules_compute_and_train_identically(name):
    torch.manual_seed(0)
    parent = Parent(PARTS[name]())
    other = pickle.loads(pickle.dumps(parent))
    assert other.part is other.same_part
    assert repr(other) == repr(parent)
    assert list(other.state_dict()) == list(parent.state_dict())
    x = torch.randn(2, 3, 6)
    for module in (parent, other):
        y = module.part(x)
        y.square().mean().backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.1 * parameter.grad
    for key, value in parent.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert torch.equal(other.part(x), parent.part(x))
    assert not torch.equal(parent.part(x), y)


def test_folding_a_copy_leaves_the_original_parametrized():
    parent = Parent(PARTS['weight_norm']())
    for other in (pickle.loads(pickle.dumps(parent)), copy.deepcopy(parent)):
        fold(other.part)
        assert type(other.part) is nn.Conv1d
        assert isinstance(other.part.weight, nn.Parameter)
        assert parametrize.is_parametrized(parent.part)
        assert torch.equal(other.part.weight, parent.part.weight)
    with torch.no_grad():
        parent.part.weight = 2 * parent.part.weight  # through the right inverse
    torch.testing.assert_close(parent.part.weight, 2 * other.part.weight)


def test_lstm_with_several_parametrizations():
    torch.manual_seed(0)
    parent = Parent(lstm())
    with torch.no_grad():
        other = pickle.loads(pickle.dumps(parent))
        x = torch.randn(5, 2, 3)
        assert torch.equal(other.part.weight_ih_l0, parent.part.weight_ih_l0)
        assert torch.equal(other.part(x)[0], parent.part(x)[0])


def test_other_hooks_and_attributes_are_kept():
    part = PARTS['weight_norm']()
    part.register_load_state_dict_pre_hook(note_loading)
    part.register_forward_hook(add_one)
    part.name = ['kept']
    other = pickle.loads(pickle.dumps(Parent(part))).part
    assert other.name == ['kept']
    assert other.name is not part.name
    x = torch.randn(2, 3, 6)
    assert torch.equal(other(x), part(x))
    other.load_state_dict(part.state_dict())
    assert other.loaded
    fold(other)
    assert len(other._load_state_dict_pre_hooks) == 1
    torch.testing.assert_close(other(x), part(x))


def note_loading(module, *_):
    module.loaded = True


def add_one(module, inputs, output):
    return output + 1


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(protocol):
    part = PARTS['weight_norm']()
    make_picklable(part)
    other = pickle.loads(pickle.dumps(part, protocol))
    assert torch.equal(other.weight, part.weight)
    assert torch.equal(pickle.loads(pickle.dumps(other, protocol)).weight, part.weight)


def test_weights_are_folded_in_place():
    part = PARTS['weight_norm']()
    before = part.weight.detach().clone()
    keys = ['bias', 'weight']
    fold(part)
    assert sorted(part.state_dict()) == keys
    assert torch.equal(part.weight, before)
    assert not part.weight.requires_grad
    assert torch.equal(pickle.loads(pickle.dumps(part)).weight, before)
    fold(part)  # nothing is left to fold
    assert torch.equal(part.weight, before)
