"""Inverse short-time Fourier transform that returns whole frames of samples."""

import torch
from torch.nn import functional as F

PADDINGS = ('same', 'center')
# Shortest window, in hops. Below it, single frames would be divided by a window close to zero.
_SHORTEST_WINDOW = {'same': 2, 'center': 3}


def check_istft(n_fft: int, hop_length: int, padding: str) -> None:
    """Check the sizes of an inverse transform with a Hann window of `n_fft` samples.

    Raises:
        ValueError: unknown padding, an odd FFT size, or a window too short for the hop length.
    """
    if padding not in PADDINGS:
        raise ValueError(f'padding={padding!r} is unknown: choose one of {", ".join(PADDINGS)}')
    hops = _SHORTEST_WINDOW[padding]
    if n_fft % 2 or n_fft < hops * hop_length:
        raise ValueError(
            f'n_fft={n_fft}: expected an even number of at least {hops} * '
            f'hop_length={hop_length} with padding={padding!r}'
        )


def first_sample(n_fft: int, hop_length: int, padding: str) -> int:
    """Return how many samples of the first frame come before the signal, see `istft`."""
    return (n_fft - hop_length) // 2 if padding == 'same' else n_fft // 2


def overlap_add(frames: torch.Tensor, hop_length: int) -> torch.Tensor:
    """Add up frames, each `hop_length` samples after the previous one.

    Args:
        frames: [N, T_frames, n].
        hop_length: samples between frames.

    Returns:
        [N, (T_frames - 1) * hop_length + n].
    """
    count, size = frames.shape[1:]
    # Frames are cut into pieces of a hop. The pieces with the same index never overlap, so that
    # each of these few sums is one addition of whole signals.
    pieces = -(-size // hop_length)
    padded = F.pad(frames, (0, pieces * hop_length - size)).unflatten(-1, (pieces, hop_length))
    total = F.pad(padded[:, :, 0], (0, 0, 0, pieces - 1))
    for index in range(1, pieces):
        total = total + F.pad(padded[:, :, index], (0, 0, index, pieces - 1 - index))
    return total.flatten(1)[:, : (count - 1) * hop_length + size]


def istft(
    spectrum: torch.Tensor, window: torch.Tensor, hop_length: int, padding: str = 'same'
) -> torch.Tensor:
    """Invert a short-time Fourier transform, with exactly `hop_length` samples per frame.

    The windowed frames are added up and divided by the sum of the squared windows (Griffin and Lim,
    1984), which is the least squares solution. `torch.istft` refuses the first and last samples of
    padding `same`.

    Args:
        spectrum: complex [N, T_frames, n_fft // 2 + 1].
        window: [n_fft].
        hop_length: samples between frames.
        padding: `same`: frame t is centered at the middle of its samples, t * hop_length to
            (t + 1) * hop_length - 1, as in a strided convolution. `center`: frame t is centered at
            sample t * hop_length, as with `center=True` of `torch.stft`.

    Returns:
        [N, T_frames * hop_length].
    """
    n_fft = len(window)
    count = spectrum.shape[1]
    left = first_sample(n_fft, hop_length, padding)
    frames = torch.fft.irfft(spectrum, n=n_fft) * window
    envelope = overlap_add(window.square().expand(1, count, n_fft), hop_length)
    kept = slice(left, left + count * hop_length)
    return overlap_add(frames, hop_length)[:, kept] / envelope[:, kept]
