"""Discriminator weights written by AudioCraft, or by any code with its names, read into the classes of this package."""

from collections.abc import Mapping

import torch

from audiocodec.utils.weight_norm import parametrized_names


def convert_audiocraft_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert the state of an AudioCraft discriminator of the same constructor arguments.

    Sub-discriminators and convolutions have the same names here. Two things differ: normalised weights have the names
    of torch's parametrizations, and STFT windows are computed, not stored.

    Args:
        state: what `discriminator.state_dict()` gave there.

    Returns:
        What `discriminator.load_state_dict` takes here; the same tensors.
    """
    return parametrized_names({name: value for name, value in state.items()
                               if not name.endswith('spec_transform.window')})
