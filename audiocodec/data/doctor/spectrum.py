"""Bandwidth of a recording, from its long-term spectrum.

Resampling and low-bitrate coding cut off a spectrum: within a few hundred Hz it falls by tens of dB
to the rounding noise of the samples, and stays there. The spectra of voices, instruments and rooms
fall by a few dB per hundred Hz, into the noise of a microphone. The cutoff is therefore the highest
steep edge with nothing above it, and does not depend on the level of the treble: quiet or dull
recordings have no such edge. An edge far below the loudest part is ignored, because what a coder
removed there was inaudible.
"""

import numpy as np

SIZE = 2048  # samples of a frame; frames overlap by half
# least height of an edge; natural spectra hardly ever fall this much over `_WIDTH`
EDGE_DB = 20.0
# least level just below an edge, relative to the loudest frequency
_DEEPEST_DB = -90.0
# Hz; energy that ends below is due to the sound (a drum, a low note), not to the recording
_LOWEST = 3000.0
_WIDTH = 0.1, 8, 40  # of an edge: fraction of its frequency, smallest and largest number of bins
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
        """Add the next samples, float32 [T, C]."""
        wav = block if self._rest is None else np.concatenate([self._rest, block])
        hop = SIZE // 2
        frames = max(0, len(wav) // hop - 1)
        if frames:
            windows = np.lib.stride_tricks.sliding_window_view(
                wav[: (frames + 1) * hop], SIZE, axis=0
            )
            cut = windows[::hop]  # [frames, C, SIZE], a view
            spectrum = np.fft.rfft(cut * self._window)
            self._power += (spectrum.real**2 + spectrum.imag**2).sum((0, 1))
        self._rest = wav[frames * hop :].copy()

    def cutoff(self) -> float | None:
        """Return the frequency (Hz) where the energy ends; None if there is no edge or no audio."""
        if not self._power.any():
            return None
        bins = len(self._power) - 1
        power = self._power + self._power.max() * 1e-20  # no logarithm of 0
        level = 10 * np.log10(power)
        smooth = 10 * np.log10(np.convolve(power, np.ones(_SMOOTH) / _SMOOTH, 'same'))
        # the average would reach over the end
        smooth[-_SMOOTH // 2 :] = smooth[-_SMOOTH // 2 - 1]
        above = np.maximum.accumulate(smooth[::-1])[::-1]  # highest level from each bin on
        fraction, least, most = _WIDTH
        edges = np.arange(max(2 * least, int(_LOWEST / self.sample_rate * 2 * bins)), bins - least)
        width = np.clip((fraction * edges).astype(int), least, most)
        fits = edges + width < bins - _SMOOTH // 2
        edges = edges[fits]
        width = width[fits]
        total = np.concatenate([[0.0], np.cumsum(level)])
        below = (total[edges] - total[edges - width]) / width  # mean level just below each edge
        height = below - above[edges + width]
        height[below < level.max() + _DEEPEST_DB] = 0
        steep = np.flatnonzero(height >= EDGE_DB)
        if not len(steep):
            return None
        # the steepest place in the highest run of steep places
        last = steep[-1]
        first = last - np.argmin(np.append(height[: last + 1][::-1] >= EDGE_DB, False)) + 1
        best = first + int(np.argmax(height[first : last + 1]))
        # the cutoff is where the level crosses the middle of that edge
        middle = (below[best] + above[edges[best] + width[best]]) / 2
        around = np.arange(edges[best] - width[best], edges[best] + width[best] + 1)
        place = around[smooth[around] > middle]
        return float((place[-1] if len(place) else edges[best]) / bins * self.sample_rate / 2)
