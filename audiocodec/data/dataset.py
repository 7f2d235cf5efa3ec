"""Datasets of audio segments.

An item depends only on (seed, epoch, index) and the list of files.
"""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from audiocodec.data.audio import check_samples, read_segment
from audiocodec.data.channels import DOWNMIXES
from audiocodec.data.manifest import AudioMeta, printable
from audiocodec.data.shards import check_shards, is_address, read_stored
from audiocodec.dsp import mix as mixing

logger = logging.getLogger(__name__)

_MASK = (1 << 63) - 1
_MAX_DRAWS = 100  # files tried for one item before giving up
_ITEM, _PERMUTATION, _AUGMENT = 0, 1, 2  # part of the seed: keeps random streams independent


class Skipped(NamedTuple):
    """A file that could not be read, and the reason, as a sentence that names it."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """Origin of an item.

    Attributes:
        meta: manifest entry of its file.
        seek_time: start of the segment in the file, in seconds.
        n_frames: length in samples at `sample_rate`, without padding.
        total_frames: length in samples, with padding.
        sample_rate: sample rate of the item (Hz).
        channels: number of channels of the item.
        epoch: epoch of the draw; 0 for datasets that do not change from epoch to epoch.
        index: index of the item in its epoch, unique across workers.
        skipped: unreadable files drawn before this one, see `bad_files.BadFiles`.
    """

    meta: AudioMeta
    seek_time: float
    n_frames: int
    total_frames: int
    sample_rate: int
    channels: int
    epoch: int = 0
    index: int = 0
    skipped: tuple[Skipped, ...] = ()


Sample = tuple[torch.Tensor, SegmentInfo]
Batch = torch.Tensor | tuple[torch.Tensor, list[SegmentInfo]]


class FileTable(Sequence[AudioMeta]):
    """List of files stored in a few arrays: about 60 bytes per file, plus its path.

    Loader processes share the arrays. A list of objects would be copied page by page, because
    reading an object writes its reference count.
    """

    def __init__(self, metas: Sequence[AudioMeta]) -> None:
        paths = [os.fsencode(meta.path) for meta in metas]
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)
        self._paths = np.frombuffer(b''.join(paths), dtype=np.uint8)
        self.duration = np.array([meta.duration for meta in metas], dtype=np.float64)
        self.weight = np.array(
            [math.nan if meta.weight is None else meta.weight for meta in metas], dtype=np.float64
        )
        self._amplitude = np.array(
            [math.nan if meta.amplitude is None else meta.amplitude for meta in metas]
        )
        self.sample_rate = np.array([meta.sample_rate for meta in metas], dtype=np.int32)
        self._channels = np.array([meta.channels or 0 for meta in metas], dtype=np.int32)
        self._info_paths = {
            index: meta.info_path for index, meta in enumerate(metas) if meta.info_path is not None
        }

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> AudioMeta:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin = int(self._ends[index - 1]) if index else 0
        weight = float(self.weight[index])
        amplitude = float(self._amplitude[index])
        return AudioMeta(
            os.fsdecode(self._paths[begin : int(self._ends[index])].tobytes()),
            float(self.duration[index]),
            int(self.sample_rate[index]),
            int(self._channels[index]) or None,
            None if math.isnan(amplitude) else amplitude,
            None if math.isnan(weight) else weight,
            self._info_paths.get(index),
        )


class AudioDataset(Dataset[torch.Tensor | Sample]):
    """Dataset of segments drawn at random from files, or of whole files.

    With `segment_duration`, item `index` is a random segment of a random file. The probability of
    a file is proportional to duration x weight. The offset is uniform over the positions where at
    least `min_segment_ratio` of the segment is audio; the rest is padded with zeros, and
    `SegmentInfo.n_frames` is the length without padding. Files too short for that are left out,
    unless all of them are. Without `segment_duration`, item `index` is a whole file.

    An unreadable file is replaced by another random file, also when items are whole files. The
    number of items stays the same, and no other item changes. `SegmentInfo.skipped` names the
    unreadable files.

    Items are addressed by `index` (in the epoch given to `set_epoch`) or by `(epoch, index)`.
    Loader processes use the second form, which needs no state. Datasets with `shuffle=False` do
    not depend on the epoch.

    Args:
        meta: the files (see `index.load_source`).
        sample_rate: sample rate of the items (Hz); files are resampled.
        channels: channels of the items, see `channels.convert_channels`.
        segment_duration: seconds; None for whole files.
        num_samples: items per epoch; None for the number of files. With whole files, at most this
            many files are used, evenly spaced in the list.
        shuffle: draw new segments in every epoch.
        permutation_on_files: go through all files in random order before repeating any, across
            epochs. Needs `sample_on_duration=False` and `sample_on_weight=False`.
        min_segment_ratio: see above.
        sample_on_duration: draw files in proportion to their duration; otherwise uniformly.
        sample_on_weight: draw files in proportion to their weight in the manifest.
        min_audio_duration: seconds; shorter files are left out.
        max_audio_duration: seconds; longer files are left out.
        pad: pad items to the segment length; otherwise only to the longest item of the batch.
        return_info: return (wav, SegmentInfo) instead of wav.
        seed: seed of all random draws.
        downmix: way to mix to mono, see `channels.convert_channels`.
        gain: lowest and highest gain in dB, drawn uniformly for each item, or each segment of a
            mixture; None for none.
        mix: probabilities that an item is one segment, a mixture of two, of three and so on; None
            for no mixtures. What would clip is scaled down. EnCodec has a gain of -10 to 6 dB and
            mixtures of [0.64, 0.24, 0.12] (arXiv 2210.13438, section 4.1).

    Raises:
        ValueError: the arguments contradict each other, or no file is left.
    """

    def __init__(
        self,
        meta: Sequence[AudioMeta],
        sample_rate: int,
        channels: int = 1,
        segment_duration: float | None = None,
        num_samples: int | None = None,
        shuffle: bool = True,
        permutation_on_files: bool = False,
        min_segment_ratio: float = 0.5,
        sample_on_duration: bool = True,
        sample_on_weight: bool = True,
        min_audio_duration: float | None = None,
        max_audio_duration: float | None = None,
        pad: bool = True,
        return_info: bool = False,
        seed: int = 0,
        downmix: str = 'mean',
        gain: Sequence[float] | None = None,
        mix: Sequence[float] | None = None,
    ) -> None:
        if segment_duration is not None and not round(segment_duration * sample_rate) > 0:
            raise ValueError(
                f'segment_duration={segment_duration}: expected seconds, or null for whole files'
            )
        if not 0 <= min_segment_ratio <= 1:
            raise ValueError(
                f'min_segment_ratio={min_segment_ratio}: expected a fraction in [0, 1]'
            )
        if num_samples is not None and num_samples < 1:
            raise ValueError(
                f'num_samples={num_samples}: expected at least 1, or null for the number of files'
            )
        if permutation_on_files and (sample_on_duration or sample_on_weight):
            raise ValueError(
                'permutation_on_files=true uses every file equally often: '
                'set sample_on_duration=false and sample_on_weight=false'
            )
        if downmix not in DOWNMIXES:
            raise ValueError(f'downmix={downmix}: expected {", ".join(DOWNMIXES)}')
        if gain is not None and not (len(gain) == 2 and gain[0] <= gain[1]):
            raise ValueError(f'gain={list(gain)}: expected [lowest, highest] in dB, or null')
        if mix is not None and not (len(mix) and min(mix) >= 0 and sum(mix) > 0):
            raise ValueError(f'mix={list(mix)}: expected probabilities of 1, 2, ... sources')
        if mix is not None and segment_duration is None:
            raise ValueError('mix: whole files are not mixed; set segment_duration, or mix=null')
        self.sample_rate = sample_rate
        self.channels = channels
        self.downmix = downmix
        self.gain = None if gain is None else (float(gain[0]), float(gain[1]))
        self.mix = None if mix is None else [float(one) for one in mix]
        self.segment_duration = segment_duration
        self.min_segment_ratio = min_segment_ratio
        self.shuffle = shuffle
        self.permutation_on_files = permutation_on_files
        self.sample_on_duration = sample_on_duration
        self.sample_on_weight = sample_on_weight
        self.pad = pad
        self.return_info = return_info
        self.seed = seed
        self.epoch = 0
        check_shards((one.path for one in meta), sample_rate, channels)
        self.files = FileTable(self._usable(meta, min_audio_duration, max_audio_duration))
        self.num_samples = len(self.files) if num_samples is None else num_samples
        if segment_duration is None:
            self.num_samples = min(self.num_samples, len(self.files))
        self._cumulative_weights = self._sum_weights()
        self._reported: set[str] = set()

    def _usable(
        self, metas: Sequence[AudioMeta], shortest: float | None, longest: float | None
    ) -> list[AudioMeta]:
        """Return the files to draw from."""
        low = 0.0 if shortest is None else shortest
        high = math.inf if longest is None else longest
        kept = [meta for meta in metas if meta.duration > 0 and low <= meta.duration <= high]
        if not kept:
            raise ValueError(
                f'no file to draw from: none of {len(metas)} files is {low} to {high} s long '
                '(min_audio_duration, max_audio_duration)'
            )
        if self.segment_duration is not None:
            needed = self.segment_duration * self.min_segment_ratio
            kept = [meta for meta in kept if meta.duration >= needed] or kept
        if len(kept) < 0.9 * len(metas):
            logger.warning(
                '%d of %d files are left out: too short or too long',
                len(metas) - len(kept),
                len(metas),
            )
        return kept

    def _sum_weights(self) -> np.ndarray | None:
        """Return the cumulative sampling weights of the files; None for uniform sampling."""
        if not (self.sample_on_duration or self.sample_on_weight):
            return None
        weights = np.ones(len(self.files))
        if self.sample_on_duration:
            weights *= self.files.duration
        if self.sample_on_weight:
            weights *= np.nan_to_num(self.files.weight, nan=1.0)
        if not weights.sum() > 0:
            raise ValueError('no file to draw from: every weight is 0')
        return np.cumsum(weights)

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of items addressed by a bare index."""
        self.epoch = epoch

    def __getitem__(self, key: int | tuple[int, int]) -> torch.Tensor | Sample:
        epoch, index = (self.epoch, key) if isinstance(key, int) else key
        if not 0 <= index < len(self):
            raise IndexError(f'item {index} of {len(self)}')
        epoch = epoch if self.shuffle and self.segment_duration is not None else 0
        rng = np.random.default_rng((self.seed & _MASK, _ITEM, epoch, index))
        skipped: list[Skipped] = []
        wav, meta, start, frames = self._draw_segment(rng, epoch, index, skipped)
        wav = self._augment(wav, epoch, index, skipped)
        n_frames = wav.shape[-1]
        wav = F.pad(wav, (0, frames - n_frames)) if self.pad and n_frames < frames else wav
        if not self.return_info:
            self._report(skipped)
            return wav
        return wav, SegmentInfo(
            meta,
            start / self.sample_rate,
            n_frames,
            wav.shape[-1],
            self.sample_rate,
            self.channels,
            epoch,
            index,
            tuple(skipped),
        )

    def _augment(
        self, wav: torch.Tensor, epoch: int, index: int, skipped: list[Skipped]
    ) -> torch.Tensor:
        """Mix with other segments and change the level, as far as asked for."""
        if self.gain is None and self.mix is None:
            return wav
        rng = np.random.default_rng((self.seed & _MASK, _AUGMENT, epoch, index))
        wavs = [wav]
        if self.mix is not None:
            count = int(np.searchsorted(np.cumsum(self.mix), rng.random() * sum(self.mix), 'right'))
            for _ in range(min(count, len(self.mix) - 1)):
                # a file of a permutation is used once, so others are drawn
                wavs.append(self._draw_segment(rng, epoch, index, skipped, first=1)[0])
        low, high = self.gain or (0.0, 0.0)
        return mixing.mix(wavs, [float(rng.uniform(low, high)) for _ in wavs])

    def _draw_segment(
        self,
        rng: np.random.Generator,
        epoch: int,
        index: int,
        skipped: list[Skipped],
        first: int = 0,
    ) -> tuple[torch.Tensor, AudioMeta, int, int]:
        """Draw and read a segment, and append unreadable files.

        Args:
            rng: source of the draws.
            epoch: number of the epoch.
            index: number of the item.
            skipped: receives unreadable files.
            first: number of the first draw, see `_draw_file`.

        Returns:
            The audio, its file, the first sample, and the number of samples asked for (-1: all).
        """
        for draw in range(first, first + _MAX_DRAWS):
            meta, start, frames = self._draw(rng, epoch, index, draw)
            try:
                return self._read(meta.path, start, frames), meta, start, frames
            except ValueError as error:
                skipped.append(Skipped(meta.path, str(error)))
        raise ValueError(
            f'{_MAX_DRAWS} files in a row cannot be read; the last: {skipped[-1].reason} '
            '(audiocodec doctor finds the others)'
        )

    def _draw(
        self, rng: np.random.Generator, epoch: int, index: int, draw: int
    ) -> tuple[AudioMeta, int, int]:
        """Draw a file, and the first sample and number of samples to read from it (-1: all)."""
        if self.segment_duration is None:
            place = (
                index * len(self.files) // len(self)
                if draw == 0
                else self._draw_file(rng, epoch, index, draw)
            )
            return self.files[place], 0, -1
        frames = round(self.segment_duration * self.sample_rate)
        meta = self.files[self._draw_file(rng, epoch, index, draw)]
        # 1e-6: a duration in seconds, times the rate, may fall just below a whole number of samples
        length = int(meta.duration * self.sample_rate + 1e-6)
        latest = max(0, length - math.ceil(frames * self.min_segment_ratio))
        return meta, int(rng.random() * (latest + 1)), frames

    def _draw_file(self, rng: np.random.Generator, epoch: int, index: int, draw: int) -> int:
        """Draw the index of a file.

        Draws after the first replace an unreadable file and are not part of a permutation.
        """
        if self.permutation_on_files and draw == 0:
            pass_number, place = divmod(epoch * len(self) + index, len(self.files))
            return int(_permutation(len(self.files), self.seed & _MASK, pass_number)[place])
        # min(): rounding may land exactly on the end of the last interval
        if self._cumulative_weights is None:
            return min(int(rng.random() * len(self.files)), len(self.files) - 1)
        target = rng.random() * self._cumulative_weights[-1]
        where = np.searchsorted(self._cumulative_weights, target, side='right')
        return min(int(where), len(self.files) - 1)

    def _read(self, path: str, start: int, frames: int) -> torch.Tensor:
        if is_address(path):
            return read_stored(path, start, frames, self.channels)
        wav = read_segment(path, start, frames, self.sample_rate, self.channels, self.downmix)
        check_samples(wav, path)
        return wav

    def _report(self, skipped: Sequence[Skipped]) -> None:
        """Name unreadable files, once in this process: where infos are returned, this is up to who
        receives them.
        """
        for path, reason in skipped:
            if path not in self._reported:
                self._reported.add(path)
                logger.warning('Skipped: %s', printable(reason))

    def collate(self, samples: Sequence[torch.Tensor | Sample]) -> Batch:
        """Collate items into a batch, padded with zeros to the longest.

        Returns:
            wav [B, C, T], or with `return_info` (wav, list of B SegmentInfo with `total_frames`
            T).
        """
        wavs = [sample if isinstance(sample, torch.Tensor) else sample[0] for sample in samples]
        longest = max(wav.shape[-1] for wav in wavs)
        wav = torch.stack([F.pad(wav, (0, longest - wav.shape[-1])) for wav in wavs])
        if not self.return_info:
            return wav
        return wav, [
            replace(sample[1], total_frames=longest)
            for sample in samples
            if isinstance(sample, tuple)
        ]


@lru_cache(4)
def _permutation(files: int, seed: int, pass_number: int) -> np.ndarray:
    """Return the order of the files in one pass over all of them."""
    return np.random.default_rng((seed, _PERMUTATION, pass_number)).permutation(files)
