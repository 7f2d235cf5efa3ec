"""From a configuration and weights to a model: names of other libraries made ours, everything
checked before.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from audiocodec.models.base import CompressionModel
from audiocodec.models.formats.weight_norm import parametrized_names
from audiocodec.utils import config

# buffers of a codebook, under one name everywhere
CODEBOOK_BUFFERS = ('embed', 'embed_avg', 'cluster_size', 'inited')


def translate(state: Mapping[str, Any], codebook: re.Pattern[str]) -> dict[str, torch.Tensor]:
    """Names of normalised weights become parametrizations; codebooks, one module each elsewhere,
    are stacked.

    Args:
        state: names to tensors.
        codebook: matches the whole name of a codebook's buffer; its groups are the level and the
            buffer.

    Raises:
        ValueError: something else than tensors, or an incomplete set of codebooks.
    """
    others: dict[str, torch.Tensor] = {}
    books: dict[str, dict[int, tuple[str, torch.Tensor]]] = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f'{name} among the weights is no tensor but {type(value).__name__}.')
        match = codebook.fullmatch(name)
        if match:
            books.setdefault(match[2], {})[int(match[1])] = name, value
        else:
            others[name] = value
    translated = parametrized_names(others)
    for buffer, levels in books.items():
        shapes = {level: list(value.shape) for level, (_, value) in sorted(levels.items())}
        if list(shapes) != list(range(len(levels))) or any(
            shape != shapes[0] for shape in shapes.values()
        ):
            name = next(iter(levels.values()))[0]
            raise ValueError(
                f'the codebooks among the weights (such as {name}) must be numbered from 0 on, all '
                'of one '
                f'shape, got {shapes}.'
            )
        stacked = torch.stack([levels[level][1] for level in shapes])
        translated[f'quantizer.codebooks.{buffer}'] = (
            stacked.view(-1) if buffer == 'inited' else stacked
        )
    return translated


def make_model(node: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> CompressionModel:
    """Build the model that a `_target_` node describes, with its weights: on the CPU, in evaluation
    mode.

    Raises:
        ValueError: an option that a part does not take, or weights that do not fit.
    """
    model = config.build(node)
    if not isinstance(model, CompressionModel):
        raise ValueError(
            f'the configuration describes a {type(model).__name__}, expected a CompressionModel.'
        )
    load_weights(model, state)
    return model.eval()


def load_weights(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load weights that must be exactly those of the model, but for the statistics of codebooks.

    Statistics that the weights lack start as if every entry had been chosen once in the latest
    update.

    Args:
        model: the model, as its configuration makes it.
        state: its weights.

    Raises:
        ValueError: it lists what is missing, unexpected, of another shape or no tensor; the model
            is left as it was.
    """
    state = dict(state)
    for name in [name for name in state if name.endswith('codebooks.embed')]:
        book, entries = name.removesuffix('embed'), state[name]
        if isinstance(entries, torch.Tensor) and entries.dim() == 3:
            state.setdefault(f'{book}inited', torch.ones(entries.shape[0]))
            if not {f'{book}embed_avg', f'{book}cluster_size'} <= state.keys():
                state[f'{book}embed_avg'] = entries.clone()
                state[f'{book}cluster_size'] = torch.ones(entries.shape[:2])
    expected = model.state_dict()
    optional = [
        name
        for name in expected  # the model completes these itself
        if re.search(r'(^|\.)codebooks\.', name) and name.rpartition('.')[2] not in CODEBOOK_BUFFERS
    ]
    problems = {
        'missing': [name for name in expected if name not in state and name not in optional],
        'unexpected': [str(name) for name in state if name not in expected],
        'no tensors': [
            name for name in expected if name in state and not isinstance(state[name], torch.Tensor)
        ],
        'of another shape': [
            f'{name} {list(state[name].shape)} instead of {list(value.shape)}'
            for name, value in expected.items()
            if isinstance(state.get(name), torch.Tensor) and state[name].shape != value.shape
        ],
    }
    found = [
        f'{len(names)} {what} ({", ".join(names[:4])}{", ..." if len(names) > 4 else ""})'
        for what, names in problems.items()
        if names
    ]
    if found:
        raise ValueError(
            f'the weights are not those of the model in the configuration: {"; ".join(found)}.'
        )
    model.load_state_dict(state)
