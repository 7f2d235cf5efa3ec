"""How far up the energy of a recording really reaches, from its long-term spectrum.

Resampling and low-bitrate coding cut a spectrum off: within a few hundred Hz it falls by tens of dB
to the floor of the samples' own rounding, and nothing comes above. Voices, instruments and rooms
fall by some dB per hundred Hz, and what is above the last of them is noise of a microphone. The
measure is therefore the height of the highest steep edge with nothing above it, not the level of
the treble: quiet or dull recordings have none. An edge far below the loudest part does not count:
what a coder left out there could not be heard.
"""

import numpy as np

SIZE = 2048  # samples of a frame; frames overlap by half
# height that makes an edge; over the width below, hardly a natural spectrum falls by so much
EDGE_DB = 20.0
_DEEPEST_DB = (
    -90.0
)  # level just below an edge, under the loudest frequency, down to which it counts
# Hz; energy that ends below is the sound itself, a drum or a low note, not how it was recorded
_LOWEST = 3000.0
_WIDTH = 0.1, 8, 40  # of the edge: share of its frequency, and least and most, in bins
_SMOOTH = 8  # bins over which the part above the edge is averaged


class LongTermSpectrum:
    """Mean power spectrum of a recording that comes in blocks.

    Args:
        sample_rate: in Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        # the sidelobes of this window, 110 dB down, stay below the rounding of 16 bits
        self._window = np.kaiser(SIZE, 14).astype(np.float32) / np.sqrt(SIZE).astype(np.float32)
        self._power = np.zeros(SIZE // 2 + 1)
        self._rest: np.ndarray | None = None

    def add(self, block: np.ndarray) -> None:
        """Take in the next samples, float32 [T, C]."""
        wav = block if self._rest is None else np.concatenate([self._rest, block])
        hop = SIZE // 2
        frames = max(0, len(wav) // hop - 1)
        if frames:
            # [frames, C, SIZE], a view
            cut = np.lib.stride_tricks.sliding_window_view(wav[: (frames + 1) * hop], SIZE, axis=0)[
                ::hop
            ]
            spectrum = np.fft.rfft(cut * self._window)
            self._power += (spectrum.real**2 + spectrum.imag**2).sum((0, 1))
        self._rest = wav[frames * hop :].copy()

    def cutoff(self) -> float | None:
        """Frequency (Hz) above which there is nothing; None where no such edge is found, or the
        audio is too short.
        """
        if not self._power.any():
            return None
        bins = len(self._power) - 1
        power = self._power + self._power.max() * 1e-20  # digital nothing has no logarithm
        level = 10 * np.log10(power)
        smooth = 10 * np.log10(np.convolve(power, np.ones(_SMOOTH) / _SMOOTH, 'same'))
        smooth[-_SMOOTH // 2 :] = smooth[
            -_SMOOTH // 2 - 1
        ]  # where the average would reach over the end
        above = np.maximum.accumulate(smooth[::-1])[::-1]  # highest level from here on
        share, least, most = _WIDTH
        edges = np.arange(max(2 * least, int(_LOWEST / self.sample_rate * 2 * bins)), bins - least)
        width = np.clip((share * edges).astype(int), least, most)
        edges, width = (values[edges + width < bins - _SMOOTH // 2] for values in (edges, width))
        total = np.concatenate([[0.0], np.cumsum(level)])
        below = (total[edges] - total[edges - width]) / width  # mean level just below
        height = below - above[edges + width]
        height[below < level.max() + _DEEPEST_DB] = 0
        steep = np.flatnonzero(height >= EDGE_DB)
        if not len(steep):
            return None
        last = steep[-1]  # of the highest edge, the steepest place
        first = last - np.argmin(np.append(height[: last + 1][::-1] >= EDGE_DB, False)) + 1
        best = first + int(np.argmax(height[first : last + 1]))
        middle = (below[best] + above[edges[best] + width[best]]) / 2
        around = np.arange(edges[best] - width[best], edges[best] + width[best] + 1)
        place = around[smooth[around] > middle]
        return float((place[-1] if len(place) else edges[best]) / bins * self.sample_rate / 2)
