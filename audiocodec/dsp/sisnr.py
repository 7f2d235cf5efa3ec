"""Scale-invariant signal-to-noise ratio, over segments."""

import math

import torch
from torch.nn import functional as F

EPSILON = torch.finfo(torch.float32).eps


def check_pair(estimate: torch.Tensor, reference: torch.Tensor) -> None:
    """Raise `ValueError` unless both signals have the same shape and at least one sample."""
    if estimate.shape != reference.shape:
        raise ValueError(
            f'estimate and reference must have the same shape, got {list(estimate.shape)} and '
            f'{list(reference.shape)}: cut both to the same length and convert their channels '
            'first'
        )
    if estimate.numel() == 0:
        raise ValueError(
            f'estimate and reference are empty (shape {list(estimate.shape)}): nothing to compare'
        )


def overlapping_segments(wav: torch.Tensor, length: int, stride: int) -> torch.Tensor:
    """Cut a signal into segments, one every `stride` samples; the last ones are zero-padded.

    Args:
        wav: [..., T].
        length: samples in a segment.
        stride: samples from the start of a segment to the start of the next.

    Returns:
        [..., ceil(T / stride), length], a view of the padded signal.
    """
    n_segments = math.ceil(wav.shape[-1] / stride)
    padded_length = max((n_segments - 1) * stride + length, wav.shape[-1])
    segments = F.pad(wav, (0, padded_length - wav.shape[-1])).unfold(-1, length, stride)
    return segments[..., :n_segments, :]


def segment_samples(segment: float, sample_rate: int, overlap: float) -> int:
    """Return the number of samples in a segment, after checking the arguments.

    Args:
        segment: seconds.
        sample_rate: Hz.
        overlap: fraction of a segment that the next one repeats, in [0, 1).

    Raises:
        ValueError: the overlap is not such a fraction, or the stride would be less than a sample.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f'overlap must be in [0, 1), got {overlap}')
    samples = int(segment * sample_rate)
    if int(samples * (1 - overlap)) < 1:
        raise ValueError(
            f'segment must be longer, got {segment} s at {sample_rate} Hz with an overlap of '
            f'{overlap}: use more seconds, or null for whole signals'
        )
    return samples


def si_snr(
    estimate: torch.Tensor,
    reference: torch.Tensor,
    segment_length: int | None = None,
    overlap: float = 0.5,
    epsilon: float = EPSILON,
) -> torch.Tensor:
    """Compute the scale-invariant SNR in dB, higher is better (Le Roux et al., arXiv 1811.02508).

    The mean of each segment is subtracted (centering), and the estimate is projected on the
    reference. The ratio of the energies of projection and residual is averaged, in dB, over
    segments and channels. The last segments are zero-padded.

    Args:
        estimate: [B, C, T].
        reference: [B, C, T].
        segment_length: samples in a segment; None: the whole signal.
        overlap: fraction of a segment that the next one repeats, in [0, 1).
        epsilon: energy per sample added to every energy, so that silence gives a finite ratio.

    Returns:
        [B], dB, float32.

    Raises:
        ValueError: the shapes differ or nothing is left to compare.
    """
    check_pair(estimate, reference)
    length = segment_length or estimate.shape[-1]
    stride = length if segment_length is None else int(length * (1 - overlap))
    floor = epsilon * length
    with torch.autocast(estimate.device.type, enabled=False):
        est = overlapping_segments(estimate.float(), length, stride)
        ref = overlapping_segments(reference.float(), length, stride)
        est = est - est.mean(-1, keepdim=True)
        ref = ref - ref.mean(-1, keepdim=True)
        dot = (est * ref).sum(-1, keepdim=True)
        projection = dot * ref / (floor + ref.square().sum(-1, keepdim=True))
        noise = est - projection
        signal_level = torch.log10(floor + projection.square().sum(-1))
        noise_level = torch.log10(floor + noise.square().sum(-1))
        ratio = signal_level - noise_level
        return 10 * ratio.flatten(1).mean(1)
