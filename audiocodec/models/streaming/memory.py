"""Steps that remember more than a few inputs: LSTMs and transformers."""

import torch
from torch import nn

from audiocodec.models.cpu.layers import LSTM
from audiocodec.models.cpu.products import LinearProduct, Recurrence
from audiocodec.models.streaming.steps import State, Step
from audiocodec.modules.transformer.layers import Transformer


class LSTMStep(Step):
    """An LSTM, which remembers its hidden and cell state."""

    def __init__(self, layer: LSTM) -> None:
        self.lstm = layer.lstm
        self.skip = layer.skip
        self.scale = layer.scale
        self.recurrence = Recurrence(layer.lstm)

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
        before = (state[name].transpose(0, 1) for name in ('hidden', 'cell'))
        y, *after = self.recurrence((x / self.scale).transpose(0, 1), *before)
        state['hidden'], state['cell'] = (value.transpose(0, 1) for value in after)
        y = y.transpose(0, 1) * self.scale
        return y.add_(x) if self.skip else y


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
