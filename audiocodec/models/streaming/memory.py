"""Steps that remember more than a few inputs: LSTMs and transformers."""

import torch
from torch import nn

from audiocodec.models.cpu.kernels import LinearProduct, make_product
from audiocodec.models.cpu.layers import LSTM
from audiocodec.models.streaming.steps import State, Step
from audiocodec.modules.transformer.layers import Transformer

_FEW_FRAMES = 16  # for which reordering the weights of an LSTM takes longer than a loop in Python


class LSTMStep(Step):
    """An LSTM, which remembers its hidden and cell state."""

    def __init__(self, layer: LSTM) -> None:
        self.lstm = layer.lstm
        self.skip = layer.skip
        self.scale = layer.scale
        levels = range(self.lstm.num_layers)
        self.inputs = [
            make_product(
                getattr(self.lstm, f'weight_ih_l{level}'),
                getattr(self.lstm, f'bias_ih_l{level}') + getattr(self.lstm, f'bias_hh_l{level}'),
            )
            for level in levels
        ]
        # in this order, a single row is multiplied twice as fast
        self.memory = [
            getattr(self.lstm, f'weight_hh_l{level}').detach().t().contiguous() for level in levels
        ]

    def start(self) -> State:
        """See `Step`."""
        return {'hidden': None, 'cell': None}

    def settle(self, state: State) -> None:
        """See `Step`."""

    def advance(self, state: State, x: torch.Tensor | None, end: bool) -> torch.Tensor | None:
        """See `Step`."""
        if x is None:
            return None
        if state['hidden'] is None:
            shape = (x.shape[0], self.lstm.num_layers, self.lstm.hidden_size)
            state['hidden'] = state['cell'] = x.new_zeros(shape)
        y = x / self.scale
        if x.shape[1] > _FEW_FRAMES:
            before = [state[name].transpose(0, 1).contiguous() for name in ('hidden', 'cell')]
            y, after = self.lstm(y.transpose(0, 1), tuple(before))
            y = y.transpose(0, 1)
            state['hidden'], state['cell'] = (value.transpose(0, 1) for value in after)
        else:
            y = self._few(state, y)
        y = y * self.scale
        return y.add_(x) if self.skip else y

    def _few(self, state: State, y: torch.Tensor) -> torch.Tensor:
        """Map [B, T, C] to the same shape, frame by frame."""
        hidden, cell = (list(state[name].unbind(1)) for name in ('hidden', 'cell'))
        size = y.shape[2]
        for level, weight in enumerate(self.memory):
            inputs = self.inputs[level](y.reshape(-1, size)).view(*y.shape[:2], 4 * size)
            outputs = []
            h, c = hidden[level], cell[level]
            for frame in inputs.unbind(1):
                gates = torch.addmm(frame, h, weight)
                enter, forget, content, leave = gates.chunk(4, 1)
                new = content.tanh()
                gates.sigmoid_()
                c = torch.addcmul(forget * c, enter, new)
                h = leave * c.tanh()
                outputs.append(h)
            hidden[level], cell[level] = h, c
            y = torch.stack(outputs, dim=1)
        state['hidden'], state['cell'] = torch.stack(hidden, dim=1), torch.stack(cell, dim=1)
        return y


class TransformerStep(Step):
    """A causal transformer, which remembers the keys and values in its window.

    Args:
        transformer: is changed: its linear layers become products for a few frames.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer
        for module in list(transformer.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Linear):
                    setattr(module, name, LinearProduct(child))

    def start(self) -> State:
        """See `Step`."""
        pasts = [{'keys': None, 'values': None} for _ in self.transformer.layers]
        return {'position': 0, 'inner': pasts}

    def settle(self, state: State) -> None:
        """See `Step`."""

    def advance(self, state: State, x: torch.Tensor | None, end: bool) -> torch.Tensor | None:
        """See `Step`."""
        if x is None:
            return None
        y = self.transformer.advance(x.transpose(1, 2), state['position'], state['inner'])
        state['position'] += x.shape[1]
        return y.transpose(1, 2)
