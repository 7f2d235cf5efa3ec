import pytest
import torch
from items import tiny_model
from torch import nn

from audiocodec import kernels
from audiocodec.models.complexity import multiply_adds


def by_hand(model):
    """Products of all layers for a second of audio, from the shapes of their outputs."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, nn.LSTM):
            steps, _, size = inputs[0].shape
            total += module.num_layers * steps * 4 * module.hidden_size * (size + size)
        else:
            frames = (inputs[0] if isinstance(module, nn.ConvTranspose1d) else output).shape[-1]
            total += module.weight.numel() * frames

    kinds = (nn.Conv1d, nn.ConvTranspose1d, nn.LSTM)
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 1, 8000))
    return total


@pytest.mark.parametrize('lstm', [0, 2])
def test_products_are_those_of_all_layers(lstm):
    model = tiny_model(lstm=lstm)
    found = multiply_adds(model)
    layers = by_hand(tiny_model(lstm=lstm))
    search = 3 * 50 * 8 * 4  # 3 codebooks, 50 frames, 8 entries of 4 channels
    assert layers <= found <= layers + 2 * search
    assert kernels.is_enabled()


def test_it_is_per_second():
    one, two = (multiply_adds(tiny_model(), seconds) for seconds in (1.0, 2.0))
    assert two == pytest.approx(one, rel=0.02)
