"""Build a loader for each stage from the `datasource` and `dataset` sections."""

import functools
import gc
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig

from audiocodec.data import (
    SPLITS,
    AudioDataset,
    AudioLoader,
    AudioMeta,
    FolderSplits,
    is_address,
    load_source,
    make_loader,
    missing_files,
    summarize,
    with_share,
)
from audiocodec.recipe.rules import LOADING
from audiocodec.utils import config, distrib, paths
from audiocodec.utils.config import ConfigError
from audiocodec.utils.failures import warn_once

logger = logging.getLogger(__name__)
_LISTENING_SEED = 0  # of the draws of the evaluate and generate splits


def needed_splits(cfg: DictConfig) -> list[str]:
    """Return the splits that this run reads: those of the stages that are not off."""
    if cfg.execute_only is not None:
        return [cfg.execute_only]
    return ['train', *(stage for stage in SPLITS[1:] if cfg[stage].every)]


def split_options(cfg: DictConfig, split: str) -> dict[str, Any]:
    """Return the options of a split: the common ones, overridden by its own."""
    common = {key: value for key, value in cfg.dataset.items() if key not in SPLITS}
    return {**common, **cfg.dataset[split]}


class Sources:
    """Reads sources of audio files; what several splits share, once."""

    def __init__(self) -> None:
        self.load = functools.cache(load_source)
        self.splits = functools.cache(functools.partial(FolderSplits, load=self.load))


def load_files(cfg: DictConfig, split: str, sources: Sources | None = None) -> list[AudioMeta]:
    """Return the files of a split: of its own source, else its part of `datasource.folder`.

    Every worker must call this, but only worker 0 reads the source and checks that the files exist:
    with many workers, the lookups would overload a shared file system.

    Args:
        cfg: configuration of the run.
        split: train, valid, evaluate or generate.
        sources: what was read for other splits.

    Raises:
        ValueError: the split has no source, the source cannot be read, files are missing, or all
            sample rates are below `datasource.min_sample_rate`.
    """
    return distrib.from_rank_zero(lambda: _load_files(cfg, split, sources or Sources()))


def _load_files(cfg: DictConfig, split: str, sources: Sources) -> list[AudioMeta]:
    source = cfg.datasource
    if source[split] is not None:
        by_duration = bool(split_options(cfg, split)['sample_on_duration'])
        files = _load_sources(config.to_plain(source[split]), by_duration, sources)
    elif source.folder is not None:
        try:
            splits = sources.splits(
                paths.find(source.folder), source.group_by, tuple(source.fractions)
            )
            files = splits.files(split)
        except ValueError as error:
            raise ConfigError(f'datasource.folder={source.folder}: {error}') from error
    else:
        turn_off = '' if split == 'train' else f', or turn the stage off ({split}.every=null)'
        raise ConfigError(
            f'datasource.{split} is missing: set a manifest or folder of audio '
            f'(datasource.{split}=PATH), one folder for all splits (dset=audio/folder '
            f'datasource.folder=PATH), or the example recordings (dset=audio/example){turn_off}'
        )
    # What the user typed, for messages.
    typed = f'datasource.{split}={source[split] or source.folder}'
    missing = missing_files([meta.path for meta in files if not is_address(meta.path)])
    if missing:
        raise ConfigError(
            f'{typed}: {len(missing)} of {len(files)} files do not exist, e.g. '
            f'{", ".join(missing[:3])}; audiocodec doctor writes a manifest of the others'
        )
    kept = _with_enough_bandwidth(cfg, typed, files)
    low = len(files) - len(kept)
    text = f'; {low} left out below datasource.min_sample_rate' if low else ''
    logger.info('%s: %s%s', typed, summarize(kept), text)
    return kept


def _load_sources(given: Any, by_duration: bool, sources: Sources) -> list[AudioMeta]:
    """Return the files of one source or of a list of them, with their shares of the draws."""
    if isinstance(given, str):
        return sources.load(paths.find(given))
    files: list[AudioMeta] = []
    for source in given:
        if isinstance(source, str):
            files += sources.load(paths.find(source))
        else:
            metas = sources.load(paths.find(source['path']))
            files += with_share(metas, source['weight'], by_duration)
    return files


def _with_enough_bandwidth(cfg: DictConfig, typed: str, files: list[AudioMeta]) -> list[AudioMeta]:
    """Leave out files below `datasource.min_sample_rate`; warn about others below the recipe's."""
    least, sample_rate = cfg.datasource.min_sample_rate, cfg.output_sample_rate
    kept = [meta for meta in files if least is None or meta.sample_rate >= least]
    if not kept:
        highest = max(meta.sample_rate for meta in files)
        raise ConfigError(
            f'{typed}: no file has datasource.min_sample_rate={least} Hz; the highest is {highest}'
        )
    low = [meta for meta in kept if meta.sample_rate < sample_rate]
    if low:
        hours, total = (sum(meta.duration for meta in metas) / 3600 for metas in (low, kept))
        rates = sorted({meta.sample_rate for meta in low})
        text = (
            f'{typed}: {hours / total:.1%} of its {total:.2f} h has a lower sample rate than the '
            f'recipe ({", ".join(map(str, rates))} Hz, not {sample_rate}), and nothing above '
            f'{rates[0] / 2000:g} kHz to learn from; '
            f'datasource.min_sample_rate={sample_rate} leaves these {len(low)} files out'
        )
        warn_once(logger, text, text)
    return kept


def make_dataset(cfg: DictConfig, split: str, sources: Sources | None = None) -> AudioDataset:
    """Create the dataset of a split; see `load_files`."""
    options = {key: value for key, value in split_options(cfg, split).items() if key not in LOADING}
    if split == 'train' and options['num_samples'] is None and cfg.optim.updates_per_epoch:
        # An epoch is set by its updates: draw as many items as they need.
        options['num_samples'] = cfg.dataset.batch_size * cfg.optim.updates_per_epoch
    return AudioDataset(
        load_files(cfg, split, sources),
        cfg.output_sample_rate,
        cfg.channels,
        # What is evaluated and listened to is the same in every run, so that runs can be compared.
        seed=cfg.seed if split in ('train', 'valid') else _LISTENING_SEED,
        return_info=True,
        downmix=cfg.datasource.downmix,
        **options,
    )


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pause Python's collector, which would visit all files of a large set again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_collector()
def build_dataloaders(cfg: DictConfig, device: torch.device) -> dict[str, AudioLoader]:
    """Create a loader for each split that this run reads.

    Raises:
        ConfigError: with the problems of all splits.
    """
    loaders, problems = {}, []
    sources = Sources()
    named: set[str] = set()  # bad files already reported by another split
    for split in needed_splits(cfg):
        options = split_options(cfg, split)
        try:
            batch_size = options['batch_size'] // distrib.world_size()
            if batch_size * distrib.world_size() != options['batch_size'] and split == 'train':
                raise ConfigError(
                    f'dataset.batch_size={options["batch_size"]} must be a multiple of the number '
                    f'of workers, {distrib.world_size()}, which share each batch'
                )
            loaders[split] = make_loader(
                make_dataset(cfg, split, sources),
                max(1, batch_size),
                options['num_workers'],
                max_batches=cfg.optim.updates_per_epoch if split == 'train' else None,
                pin_memory=device.type == 'cuda',
                max_bad_fraction=options['max_bad_fraction'],
                named=named,
            )
        except ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(f'dataset and datasource, {split}: {error}')
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return loaders


class RepeatFirst:
    """Loader that repeats its first batch, to measure training speed without loading."""

    wait_time = 0.0

    def __init__(self, loader: AudioLoader) -> None:
        self.loader = loader
        self._start = 0
        self.bad_files = loader.bad_files

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set only the first batch: all epochs are the same."""
        self._start = start

    def __iter__(self) -> Iterator[Any]:
        yield from itertools.repeat(next(iter(self.loader)), len(self) - self._start)
