"""Level of audio: loudness by ITU-R BS.1770-4, and normalization before writing."""

import math

import torch

# K-weighting as two analog prototypes (gain in dB, frequency in Hz, quality). Their bilinear
# transform gives the tables of BS.1770-4 at 48 kHz, and the filters for other sample rates.
_SHELF = (3.999843853973347, 1681.974450955533, 0.7071752369554196)
_HIGH_PASS = (38.13547087602444, 0.5003270373238773)
_PART = 2**21  # samples of the longest transform
_CHANNEL_WEIGHTS = (1.0, 1.0, 1.0, 1.41, 1.41)  # left, right, center, surrounds
MOST_CHANNELS = len(_CHANNEL_WEIGHTS)

# headroom of each strategy, in dB below full scale (loudness: the target, in -LKFS)
HEADROOM_DB = {'none': 0.0, 'clip': 0.0, 'peak': 1.0, 'rms': 18.0, 'loudness': 14.0}


def k_weighting(sample_rate: int) -> list[tuple[list[float], list[float]]]:
    """Return the two biquads of BS.1770-4 as (numerator, denominator), for a sample rate (Hz)."""
    gain, frequency, quality = _SHELF
    k = math.tan(math.pi * frequency / sample_rate)
    high = 10 ** (gain / 20)
    band = high**0.4996667741545416
    a0 = 1 + k / quality + k * k
    slope = band * k / quality
    shelf = (
        [(high + slope + k * k) / a0, 2 * (k * k - high) / a0, (high - slope + k * k) / a0],
        [1.0, 2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0],
    )
    frequency, quality = _HIGH_PASS
    k = math.tan(math.pi * frequency / sample_rate)
    a0 = 1 + k / quality + k * k
    return [shelf, ([1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0])]


def _k_weighted(wav: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """Apply the K-weighting to wav [C, T], in float64.

    Multiplies spectra of parts. The impulse responses decay within half a second (38 Hz high-pass),
    so that with a second of what came before, and padding of a second or more, the circular
    convolution equals the recursive filter to double precision.
    """
    step = _PART - 2 * sample_rate
    parts = []
    for start in range(0, wav.shape[-1], step):
        before = min(start, sample_rate)
        part = wav[..., start - before : start + step]
        parts.append(_k_weighted_part(part, sample_rate)[..., before:])
    return torch.cat(parts, dim=-1)


def _k_weighted_part(wav: torch.Tensor, sample_rate: int) -> torch.Tensor:
    # a power of two, for a fast transform
    length = 1 << (wav.shape[-1] + sample_rate - 1).bit_length()
    omega = torch.arange(length // 2 + 1, dtype=torch.float64, device=wav.device) * (
        2 * math.pi / length
    )
    z = torch.polar(torch.ones_like(omega), -omega)
    response = torch.ones_like(z)
    for b, a in k_weighting(sample_rate):
        response = response * (b[0] + b[1] * z + b[2] * z * z) / (a[0] + a[1] * z + a[2] * z * z)
    filtered = torch.fft.irfft(torch.fft.rfft(wav.double(), length) * response, length)
    return filtered[..., : wav.shape[-1]]


def loudness(wav: torch.Tensor, sample_rate: int) -> float:
    """Return the integrated loudness (ITU-R BS.1770-4) in LKFS.

    K-weighting, 400 ms blocks overlapping by 75 %, two gates.

    Args:
        wav: [C, T], up to 5 channels in the order left, right, center, left and right surround.
        sample_rate: in Hz.

    Returns:
        LKFS; -inf if every block is below the absolute gate of -70 LKFS. Audio shorter than a block
        is one block.
    """
    if wav.dim() != 2 or not 1 <= wav.shape[0] <= MOST_CHANNELS:
        raise ValueError(
            'loudness is defined for [channels, samples] with 1 to 5 channels; got '
            f'{list(wav.shape)}'
        )
    if wav.shape[-1] == 0:
        return -math.inf
    block = min(wav.shape[-1], round(0.4 * sample_rate))
    squares = _k_weighted(wav, sample_rate).square()
    power = squares.unfold(-1, block, max(1, round(block / 4))).mean(-1)
    weights = torch.tensor(_CHANNEL_WEIGHTS[: len(wav)], dtype=torch.float64, device=wav.device)
    power = weights @ power
    power = power[power > _power(-70.0)]
    if not len(power):
        return -math.inf
    # relative gate: 10 LU below the mean of the blocks that passed the absolute gate
    power = power[power > power.mean() / 10]
    return -0.691 + 10 * math.log10(power.mean().item())


def _power(lkfs: float) -> float:
    return float(10 ** ((lkfs + 0.691) / 10))


def normalize(
    wav: torch.Tensor, sample_rate: int, strategy: str = 'clip', headroom_db: float | None = None
) -> torch.Tensor:
    """Normalize the level of audio, within full scale.

    Args:
        wav: [C, T].
        sample_rate: in Hz.
        strategy: 'clip' only clips, at the headroom. 'peak' scales the largest sample, 'rms' the
            RMS of the mono mix, and 'loudness' the integrated loudness (see `loudness`) to the
            headroom, and these clip at full scale. 'none' changes nothing.
        headroom_db: dB below full scale, for 'loudness' below 0 LKFS; by default 0 for clip, 1 for
            peak, 18 for rms and 14 for loudness.

    Returns:
        [C, T]. Silence stays silence.
    """
    if strategy not in HEADROOM_DB:
        raise ValueError(
            f'normalization strategy {strategy!r}: expected one of {", ".join(HEADROOM_DB)}'
        )
    headroom = HEADROOM_DB[strategy] if headroom_db is None else headroom_db
    target = 10 ** (-headroom / 20)
    if strategy == 'none' or wav.numel() == 0:
        return wav
    if strategy == 'clip':
        return wav.clamp(-target, target)
    if strategy == 'peak':
        level = wav.abs().max().item()
    elif strategy == 'rms':
        level = wav.mean(0).square().mean().sqrt().item()
    else:
        level = 10 ** (loudness(wav, sample_rate) / 20)
    return (wav * (target / level)).clamp(-1, 1) if level > 0 else wav
