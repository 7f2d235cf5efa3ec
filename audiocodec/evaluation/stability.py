"""Stability of codes: how many stay the same when the same audio is encoded otherwise."""

import math

import torch

from audiocodec.evaluation.codec import Codec
from audiocodec.evaluation.systems import fit
from audiocodec.models import CompressionModel
from audiocodec.quantization import StridedResidualQuantizer

NAMES = ('stable_shift', 'stable_context', 'stable_recode')  # of the fractions
_CONTEXT = 0.25  # fraction of an item that is cut off on each side


@torch.no_grad()
def stability(codec: Codec, wav: torch.Tensor) -> dict[str, float]:
    """Measure the fraction of codes that stay the same, over all levels.

    Language models learn from codes, which are easier to predict if the same sound has the same
    codes.

    Args:
        codec: the codec, whose highest rate is used.
        wav: [1, C, T], audio of its own rate and channels.

    Returns:
        Fractions: `stable_shift` if the audio starts a sample later, `stable_context` for the
        middle half of the audio encoded alone, and `stable_recode` for the decoded audio encoded
        again. An item too short for one lacks it.
    """
    codes, scale = codec.encode(wav)
    found = {}
    if wav.shape[-1] > 1:
        found['stable_shift'] = _equal(codec.encode(wav[..., 1:])[0], codes)
    hop = codec.model.hop_length * codec.sample_rate // codec.model.sample_rate
    frames, group = codes.shape[-1], _group(codec.model)
    begin = round(_CONTEXT * frames / group) * group
    end = (frames - begin) // group * group
    # not cut into overlapping segments, which have more frames
    is_whole = frames - -(-wav.shape[-1] // hop) < group
    if 0 < begin < end and is_whole:
        middle = codec.encode(wav[..., begin * hop : end * hop])[0]
        found['stable_context'] = _equal(middle, codes[..., begin:end])
    decoded = fit(codec.model.decode(codes, scale), wav.shape[-1])
    found['stable_recode'] = _equal(codec.encode(decoded)[0], codes)
    return found


def _group(model: CompressionModel) -> int:
    """Return the number of frames that are encoded together, 1 for most codecs.

    The number of all frames is a multiple of that of an encoder (see `SNACEncoder`).
    """
    group = 1
    for module in model.modules():
        group = math.lcm(group, getattr(module, 'frame_multiple', 1))
        if isinstance(module, StridedResidualQuantizer):
            group = math.lcm(group, *module.strides)
    return group


def _equal(codes: torch.Tensor, others: torch.Tensor) -> float:
    frames = min(codes.shape[-1], others.shape[-1])
    return (codes[..., :frames] == others[..., :frames]).double().mean().item()
