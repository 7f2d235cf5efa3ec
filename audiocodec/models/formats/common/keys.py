"""Building a model from a configuration and weights: translates names and checks everything."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from audiocodec.models.base import CompressionModel
from audiocodec.models.formats.common.weight_norm import parametrized_names
from audiocodec.utils import config

# buffers of a codebook, which have the same names in all libraries
STATISTICS = ('embed_avg', 'cluster_size', 'usage', 'dead', 'updates')  # that only training reads
CODEBOOK_BUFFERS = ('embed', 'embed_avg', 'cluster_size', 'inited')


def translate(state: Mapping[str, Any], codebook: re.Pattern[str]) -> dict[str, torch.Tensor]:
    """Translate weights of another library: rename normalized weights, and stack codebooks.

    Args:
        state: names to tensors.
        codebook: matches the full name of a codebook's buffer; its groups are the level and the
            buffer.

    Raises:
        ValueError: a value is not a tensor, or codebooks are missing.
    """
    others: dict[str, torch.Tensor] = {}
    books: dict[str, dict[int, tuple[str, torch.Tensor]]] = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f'{name} among the weights is not a tensor but {type(value).__name__}')
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
                f'the codebooks among the weights (such as {name}) must be numbered from 0 and '
                f'have the same shape, got {shapes}'
            )
        stacked = torch.stack([levels[level][1] for level in shapes])
        if buffer == 'inited':  # [1] per codebook elsewhere
            stacked = stacked.view(-1)
        translated[f'quantizer.codebooks.{buffer}'] = stacked
    return translated


def make_model(node: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> CompressionModel:
    """Build the model of a `_target_` node with its weights, on the CPU, in eval mode.

    Raises:
        ValueError: an invalid option, or weights that do not fit.
    """
    model = config.build(node)
    if not isinstance(model, CompressionModel):
        raise ValueError(
            f'the configuration describes a {type(model).__name__}, expected a CompressionModel'
        )
    load_weights(model, state)
    return model.eval()


def load_weights(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load weights that fit a model exactly, except that statistics of codebooks may be missing.

    Missing statistics start as if every entry had been selected once in the last update.

    Args:
        model: the model.
        state: its weights.

    Raises:
        ValueError: lists what is missing, unexpected, of another shape, no tensor or integers in
            place of weights; the model is not changed.
    """
    state = dict(state)
    for name in [name for name in state if name.endswith('codebooks.embed')]:
        book = name.removesuffix('embed')
        entries = state[name]
        if isinstance(entries, torch.Tensor) and entries.dim() == 3:
            state.setdefault(f'{book}inited', torch.ones(entries.shape[0]))
            if not {f'{book}embed_avg', f'{book}cluster_size'} <= state.keys():
                state[f'{book}embed_avg'] = entries.clone()
                state[f'{book}cluster_size'] = torch.ones(entries.shape[:2])
    expected = model.state_dict()
    problems: dict[str, list[str]] = {
        'missing': [],
        'unexpected': [str(name) for name in state if name not in expected],
        'not tensors': [],
        'of another shape': [],
        'not of floating-point numbers': [],
    }
    for name, value in expected.items():
        if name not in state:
            if not _is_optional(name):
                problems['missing'].append(name)
        elif not isinstance(state[name], torch.Tensor):
            problems['not tensors'].append(name)
        elif state[name].shape != value.shape:
            problems['of another shape'].append(
                f'{name} {list(state[name].shape)} instead of {list(value.shape)}'
            )
        elif value.is_floating_point() and not state[name].is_floating_point():
            problems['not of floating-point numbers'].append(f'{name} {state[name].dtype}')
    found = [
        f'{len(names)} {what} ({", ".join(names[:4])}{", ..." if len(names) > 4 else ""})'
        for what, names in problems.items()
        if names
    ]
    if found:
        raise ValueError(f'the weights do not fit the configuration: {"; ".join(found)}')
    model.load_state_dict(state)


def _is_optional(name: str) -> bool:
    """Return whether the model completes a missing buffer itself."""
    if is_statistic(name):
        return True
    is_codebook = re.search(r'(^|\.)codebooks\.', name) is not None
    is_buffer = name.rpartition('.')[2] in ('usage', 'dead', 'updates')
    return is_codebook and is_buffer


def is_projection(name: str) -> bool:
    """Return whether this is a weight of a `FactorizedCodebook`'s projection.

    Other libraries have a convolution with one tap in its place, [out, in, 1] for [out, in].
    """
    pattern = r'quantizer\.levels\.\d+\.(in|out)_proj\.(weight|parametrizations\.weight\.\w+)'
    return re.fullmatch(pattern, name) is not None


def is_statistic(name: str) -> bool:
    """Return whether a name is that of a buffer of `CodeStatistics`, which only training needs."""
    return re.search(r'(^|\.)statistics\.(usage|updates)$', name) is not None
