"""Evaluation of systems on items: rows, codes and audio written while it runs, and resumed."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiocodec.data import AudioDataset, SegmentInfo, write_audio
from audiocodec.evaluation.codec import Codec
from audiocodec.evaluation.pool import Pair, ScoringPool
from audiocodec.evaluation.rows import (
    INFO,
    TABLE,
    VERSION,
    Row,
    SharedRows,
    audio_name,
    describe_metrics,
    key_of,
    label,
    make_row,
    score_columns,
    write_csv,
    write_json,
)
from audiocodec.evaluation.stability import stability
from audiocodec.evaluation.systems import System
from audiocodec.evaluation.tokens import TokenStatistics
from audiocodec.metrics import Metric
from audiocodec.run.lock import FolderLock
from audiocodec.utils import distrib
from audiocodec.utils.failures import Failures
from audiocodec.utils.paths import safe_stem

AUDIO = 'audio'  # folder of the items to listen to
CODES = 'codes'


class Evaluation:
    """Evaluates systems on a data set, into a folder.

    An item is encoded once by each system and decoded at each of its rates. A row is written for
    each item, system and rate as soon as all scores of the item are there, so that memory does not
    grow with the number of items. What an interrupted run has written is kept: the same call goes
    on behind it. Further systems and rates can be added to a folder later. Several workers divide
    the items; all of them must make the same calls.

    Args:
        folder: where results go; created.
        dataset: the items, with `return_info=True`; items that are not padded.
        systems: what is compared.
        metrics: metrics by name.
        data: description of the data, e.g. its path; a folder holds results of one data set.
        workers: processes that score, this one included.
        listen: number of items whose audio is kept, for reports.

    Attributes:
        failures: items that a system could not take, and files that could not be read.

    Raises:
        ValueError: the folder has results of other data, metrics or models, or a system cannot
            take the channels of the data.
    """

    def __init__(
        self,
        folder: Path,
        dataset: AudioDataset,
        systems: Sequence[System],
        metrics: dict[str, Metric],
        data: dict[str, Any],
        workers: int = 1,
        listen: int = 0,
    ) -> None:
        self.folder = folder
        self.dataset = dataset
        self.systems = list(systems)
        self.metrics = metrics
        self.workers = workers
        self.listen = listen
        self.failures = Failures()
        names = [system.name for system in systems]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'two systems are called {name!r}: name them with NAME=MODEL')
            if '/' in name:
                raise ValueError(f'the name of a system is part of file names, {name!r} is not')
        for system in systems:
            system.check_channels(dataset.channels)
        self.info = self._merged_info(data)
        self.rows = SharedRows(folder)

    def _merged_info(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the description of the evaluation, with what the folder holds already."""
        info: dict[str, Any] = {
            'version': VERSION,
            'data': {
                **data,
                'items': len(self.dataset),
                'sample_rate': self.dataset.sample_rate,
                'channels': self.dataset.channels,
            },
            'metrics': describe_metrics(self.metrics),
            'systems': {
                system.name: {**system.describe(), 'rates': system.rates} for system in self.systems
            },
        }
        path = self.folder / INFO
        if not path.exists():
            return info
        old = json.loads(path.read_text())
        for section in ('version', 'data', 'metrics'):
            if old.get(section) != info[section]:
                raise ValueError(
                    f'{path} is of an evaluation with {section}={json.dumps(old.get(section))}, '
                    f'this one has {json.dumps(info[section])}: use another folder'
                )
        for name, system in info['systems'].items():
            known = old['systems'].get(name)
            if known is None:
                continue
            if known.get('fingerprint') != system.get('fingerprint'):
                raise ValueError(
                    f'{path} has results of another model called {name!r}: use another folder, or '
                    'name the model with NAME=MODEL'
                )
            system['rates'] = sorted({*known['rates'], *system['rates']})
        return {**info, 'systems': {**old['systems'], **info['systems']}}

    # ---- items -----------------------------------------------------------------------------------

    def remaining(self) -> list[int]:
        """Return the items of this worker that lack a row."""
        items = range(distrib.rank(), len(self.dataset), distrib.world_size())
        return [
            item
            for item in items
            if not all(self._is_done(system, item) for system in self.systems)
        ]

    def run(self, advance: Callable[[int], None] | None = None) -> list[Row]:
        """Evaluate what is missing.

        Args:
            advance: called with 1 whenever an item of this worker is done.

        Returns:
            All rows of the folder, in the order of the items.

        Raises:
            RunError: another process evaluates into the folder.
        """
        lock = FolderLock(self.folder, f'evaluation into {self.folder}')
        try:
            distrib.from_rank_zero(lambda: self._begin(lock))
            self.rows.merge()
            self._score(advance)
            self.rows.merge()
        finally:
            lock.release()
        self.failures.sync()
        order = {name: place for place, name in enumerate(self.info['systems'])}
        rows = sorted(
            self.rows.rows.values(),
            key=lambda row: (row['item'], order.get(row['system'], len(order)), row['rate']),
        )
        if distrib.is_rank_zero():
            write_csv(self.folder / TABLE, rows)
        return rows

    def _begin(self, lock: FolderLock) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        write_json(self.folder / INFO, self.info)

    def _score(self, advance: Callable[[int], None] | None) -> None:
        with ScoringPool(self.metrics, self.workers) as pool:
            scored = pool.score(self._renditions())
            for _, group in itertools.groupby(scored, key=lambda pair: pair[0]['item']):
                rows = [{**row, **score_columns(scores)} for row, scores in group]
                self.rows.add(row for row in rows if key_of(row) not in self.rows.rows)
                if advance is not None:
                    advance(1)

    def _renditions(self) -> Iterator[tuple[Row, Pair]]:
        """Yield row and audio of each missing item by each system at each rate."""
        rate = self.dataset.sample_rate
        for index in self.remaining():
            wav, segment = self.dataset[index]
            assert isinstance(segment, SegmentInfo)
            for skipped in segment.skipped:
                self.failures.add('reading a file', skipped.reason)
            reference = wav[:, : segment.n_frames]
            self._keep(segment, 'reference', reference)
            for system in self.systems:
                if self._is_done(system, index):
                    continue
                # an item that a system cannot take, e.g. for lack of memory, leaves out its rows
                with self.failures.caught(f'{system.name} on {segment.meta.path}'):
                    for row, estimate in self._reconstruct(system, reference, segment):
                        yield row, Pair(estimate, reference, rate)

    def _reconstruct(
        self, system: System, reference: torch.Tensor, segment: SegmentInfo
    ) -> Iterator[tuple[Row, torch.Tensor]]:
        """Run an item through a system at each rate; keep codes and audio."""
        rate = self.dataset.sample_rate
        for rendition in system.reconstruct(reference[None], rate):
            row = make_row(system.name, rendition, segment)
            self._keep(segment, label(system.name, rendition.rate), rendition.wav[0])
            # the highest rate comes last, and has all codes
            if rendition.codes is not None and rendition.rate == system.rates[-1]:
                assert isinstance(system, Codec)
                self._keep_codes(system.name, segment, rendition.codes[0])
                row.update(stability(system, system.to_own(reference[None], rate)))
            yield row, rendition.wav[0]

    def _is_done(self, system: System, item: int) -> bool:
        return all((system.name, rate, item) in self.rows.rows for rate in system.rates)

    def _codes_path(self, system: str, index: int) -> Path:
        return self.folder / CODES / safe_stem(f'{system}.codes') / f'{index:05d}.npy'

    def _keep_codes(self, system: str, segment: SegmentInfo, codes: torch.Tensor) -> None:
        path = self._codes_path(system, segment.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and len(np.load(path)) > len(codes):
            return  # of a higher rate, evaluated before
        small = codes.max() < 2**16
        np.save(path, codes.numpy().astype(np.uint16 if small else np.int64))

    def _keep(self, segment: SegmentInfo, name: str, wav: torch.Tensor) -> None:
        """Write audio for reports, if the item is one of those to listen to."""
        if segment.index < self.listen:
            folder = f'{segment.index:03d}_{safe_stem(segment.meta.path)}'
            path = self.folder / AUDIO / folder / audio_name(name)
            write_audio(path, wav, self.dataset.sample_rate)

    # ---- codes -----------------------------------------------------------------------------------

    def token_statistics(self) -> Iterator[tuple[str, float, dict[str, Any]]]:
        """Yield (system, rate, statistics of its codes over all items), see `TokenStatistics`."""
        for system in self.systems:
            if not isinstance(system, Codec) or not system.model.cardinality:
                continue
            levels = max(system.codebooks.values())
            statistics = TokenStatistics(levels, system.model.cardinality, system.model.frame_rate)
            found = False
            for index in range(len(self.dataset)):
                path = self._codes_path(system.name, index)
                if path.exists():
                    found = True
                    statistics.add(np.load(path)[:levels])
            if found:
                for rate, number in system.codebooks.items():
                    yield system.name, rate, statistics.compute(number)
