"""Conversion of the number of channels."""

import torch

DOWNMIXES = ('mean', 'left', 'loudest')  # ways to mix to mono

_HALF = 0.5**0.5  # -3 dB
# Weights of each channel for left and right, by number of channels, in the order of WAV files
# (SMPTE 2036-2): front left and right, center, low frequencies, back left and right, sides. The
# center and the surrounds are mixed at -3 dB, and low frequencies left out (ITU-R BS.775-4,
# table 2).
_LEFT, _RIGHT, _CENTER, _LOW = (1.0, 0.0), (0.0, 1.0), (_HALF, _HALF), (0.0, 0.0)
_BACK_LEFT, _BACK_RIGHT, _BACK = (_HALF, 0.0), (0.0, _HALF), (0.5, 0.5)
_TO_STEREO = {
    3: (_LEFT, _RIGHT, _CENTER),
    4: (_LEFT, _RIGHT, _BACK_LEFT, _BACK_RIGHT),
    5: (_LEFT, _RIGHT, _CENTER, _BACK_LEFT, _BACK_RIGHT),
    6: (_LEFT, _RIGHT, _CENTER, _LOW, _BACK_LEFT, _BACK_RIGHT),
    7: (_LEFT, _RIGHT, _CENTER, _LOW, _BACK, _BACK_LEFT, _BACK_RIGHT),
    8: (_LEFT, _RIGHT, _CENTER, _LOW, _BACK_LEFT, _BACK_RIGHT, _BACK_LEFT, _BACK_RIGHT),
}
MOST_CHANNELS = max(_TO_STEREO)  # of a layout that can be mixed to stereo


def convert_channels(wav: torch.Tensor, channels: int, downmix: str = 'mean') -> torch.Tensor:
    """Mix to mono or stereo, or repeat mono on every channel.

    Surround sound (3 to 8 channels, in the order of WAV files) is mixed to stereo with the center
    and the surrounds at -3 dB and without low frequencies, scaled so that it cannot clip.

    Args:
        wav: [..., C, T].
        channels: channels of the result.
        downmix: to mono: the mean of the channels, the left (first) one, or the loudest one.

    Returns:
        [..., channels, T].

    Raises:
        ValueError: no conversion is the obvious one.
    """
    current = wav.shape[-2]
    if current == channels:
        return wav
    if channels == 1:
        return _to_mono(wav, downmix)
    if current == 1:
        return wav.repeat(*[1] * (wav.dim() - 2), channels, 1)
    if channels == 2 and current in _TO_STEREO:
        weights = wav.new_tensor(_TO_STEREO[current]).T
        return (weights / weights.sum(1, keepdim=True)) @ wav
    raise ValueError(
        f'cannot convert {current} channels to {channels}: supported are any to mono, mono to any, '
        f'and up to {MOST_CHANNELS} to stereo'
    )


def _to_mono(wav: torch.Tensor, downmix: str) -> torch.Tensor:
    if downmix == 'mean':
        return wav.mean(-2, keepdim=True)
    if downmix == 'left':
        return wav[..., :1, :]
    if downmix == 'loudest':
        loudest = wav.square().sum(-1).argmax(-1)
        return wav.gather(-2, loudest[..., None, None].expand(*loudest.shape, 1, wav.shape[-1]))
    raise ValueError(f'downmix {downmix!r}: expected one of {", ".join(DOWNMIXES)}')
