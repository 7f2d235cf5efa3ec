"""Layers for chunks with a state give what they give for the whole signal."""

import pytest
import torch
from torch import nn

from audiocodec.models.export.stateful import Memory, OnnxLSTM, TorchLSTM, advance, replaced
from audiocodec.modules import (
    StreamableConv1d,
    StreamableConvTranspose1d,
    StreamableLSTM,
    Transformer,
)


def in_chunks(module, x, size):
    """Outputs of a layer for a signal [B, C, T] in chunks; the last state."""
    outputs, states = [], None
    for index, chunk in enumerate(x.split(size, dim=-1)):
        memory = Memory(size, torch.full((len(x),), index == 0), states)
        outputs.append(advance(module, chunk, memory, 'layer'))
        states = tuple(memory.kept)
    return torch.cat(outputs, dim=-1), dict(zip(memory.names, memory.kept, strict=True))


@pytest.mark.parametrize('mode', ['constant', 'replicate', 'reflect'])
@pytest.mark.parametrize('stride', [1, 2])
def test_convolution(mode, stride):
    module = StreamableConv1d(
        2, 3, kernel_size=4, stride=stride, dilation=2, causal=True, pad_mode=mode
    ).double()
    x = torch.randn(2, 2, 40, dtype=torch.float64)
    for size in (8, 10, 20):
        found, state = in_chunks(module, x, size)
        torch.testing.assert_close(found, module(x), rtol=0, atol=1e-14)
        assert torch.equal(state['layer'], x[..., -module.padding_total :])


def test_chunks_shorter_than_the_padding():
    module = StreamableConv1d(2, 3, kernel_size=7, causal=True, pad_mode='replicate').double()
    x = torch.randn(2, 2, 10, dtype=torch.float64)
    found, state = in_chunks(module, x, 1)
    torch.testing.assert_close(found, module(x), rtol=0, atol=1e-14)
    assert torch.equal(state['layer'], x[..., -6:])


@pytest.mark.parametrize(('kernel', 'kept'), [(2, 0), (3, 1), (4, 1), (5, 2)])
def test_transposed_convolution(kernel, kept):
    module = StreamableConvTranspose1d(2, 3, kernel, stride=2, causal=True).double()
    x = torch.randn(2, 2, 12, dtype=torch.float64)
    for size in (1, 3):
        found, state = in_chunks(module, x, size)
        torch.testing.assert_close(found, module(x), rtol=0, atol=1e-14)
        assert sum(each.shape[-1] for each in state.values()) == kept


@pytest.mark.parametrize('skip', [True, False])
def test_lstm(skip):
    module = StreamableLSTM(4, num_layers=2, skip=skip).double()
    x = torch.randn(3, 4, 12, dtype=torch.float64)
    expected, (hidden, cell) = module.lstm(x.permute(2, 0, 1))
    expected = expected.permute(1, 2, 0) + (x if skip else 0)
    replaced(module, TorchLSTM)
    found, state = in_chunks(module, x, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert list(state) == ['layer_hidden', 'layer_cell']
    torch.testing.assert_close(state['layer_hidden'], hidden.transpose(0, 1))
    torch.testing.assert_close(state['layer_cell'], cell.transpose(0, 1))


@pytest.mark.slow
def test_lstm_is_traced():
    module = TorchLSTM(nn.LSTM(4, 4, 2))
    arguments = torch.randn(3, 2, 4), (torch.randn(2, 2, 4), torch.randn(2, 2, 4))
    found, (hidden, _) = torch.export.export(module, arguments).module()(*arguments)
    assert torch.equal(found, module(*arguments)[0])
    assert torch.equal(hidden[1], found[-1])


def test_weights_of_the_onnx_lstm_are_in_the_order_of_the_operator():
    source = nn.LSTM(4, 4, 1)
    weights = OnnxLSTM(source).weights
    gates = source.weight_ih_l0.chunk(4)  # input, forget, cell, output
    assert torch.equal(weights.input_0[0], torch.cat([gates[i] for i in (0, 3, 1, 2)]))


@pytest.mark.parametrize('context', [1, 5])
def test_transformer(context):
    module = Transformer(8, 2, 2, 16, context=context, layer_scale=0.5).double()
    x = torch.randn(2, 8, 24, dtype=torch.float64)
    expected = module(x)
    replaced(module, TorchLSTM)
    for size in (1, 3, 12):
        found, state = in_chunks(module, x, size)
        # angles are float32, and those of the whole signal grow with its length
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert state['layer_seen'].tolist() == [context - 1] * 2
