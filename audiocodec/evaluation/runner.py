"""Evaluation of systems on items: rows, codes and audio written while it runs, and resumed."""

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from audiocodec.data import AudioDataset, SegmentInfo, write_audio
from audiocodec.evaluation.codec import Codec
from audiocodec.evaluation.pool import Pair, ScoringPool, Ticket
from audiocodec.evaluation.rows import (
    INFO,
    ROWS,
    TABLE,
    VERSION,
    Row,
    RowFile,
    describe_metrics,
    key_of,
    make_row,
    score_columns,
    write_csv,
    write_json,
)
from audiocodec.evaluation.stability import stability
from audiocodec.evaluation.systems import System
from audiocodec.evaluation.tokens import TokenStatistics
from audiocodec.metrics import Metric
from audiocodec.utils.failures import Failures
from audiocodec.utils.paths import safe_stem

logger = logging.getLogger('audiocodec')

AUDIO = 'audio'  # folder of the items to listen to
CODES = 'codes'


class _Pending(NamedTuple):
    """Rows of an item, some of whose scores are still computed."""

    rows: list[tuple[Row, Ticket]]
    codes: dict[str, np.ndarray]
    item: int


class Evaluation:
    """Evaluates systems on a data set, into a folder.

    An item is encoded once by each system and decoded at each of its rates. A row is written for
    each item, system and rate as soon as all scores of the item are there, so that memory does not
    grow with the number of items. What an interrupted run has written is kept: the same call goes
    on behind it. Further systems and rates can be added to a folder later.

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
        ValueError: the folder has results of other data, metrics or models.
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
        self.info = self._merged_info(data)
        self.file = RowFile(folder / ROWS)
        write_json(folder / INFO, self.info)

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
        """Return the items that lack a row."""
        rates = [(system.name, rate) for system in self.systems for rate in system.rates]
        return [
            index
            for index in range(len(self.dataset))
            if any((name, rate, index) not in self.file.rows for name, rate in rates)
        ]

    def run(self, advance: Callable[[int], None] | None = None) -> list[Row]:
        """Evaluate what is missing.

        Args:
            advance: called with 1 whenever an item is done.

        Returns:
            All rows of the folder, in the order of the items.
        """
        queue: deque[_Pending] = deque()
        with ScoringPool(self.metrics, self.workers) as pool:
            for index in self.remaining():
                queue.append(self._start(index, pool))
                while queue and (
                    len(queue) > 2 * self.workers
                    or all(ticket.future.done() for _, ticket in queue[0].rows)
                ):
                    self._finish(queue.popleft(), pool)
                    if advance is not None:
                        advance(1)
            while queue:
                self._finish(queue.popleft(), pool)
                if advance is not None:
                    advance(1)
        order = {name: place for place, name in enumerate(self.info['systems'])}
        rows = sorted(
            self.file.rows.values(),
            key=lambda row: (row['item'], order.get(row['system'], len(order)), row['rate']),
        )
        write_csv(self.folder / TABLE, rows)
        return rows

    def _start(self, index: int, pool: ScoringPool) -> _Pending:
        """Run an item through all systems, and submit the results to be scored."""
        wav, segment = self.dataset[index]
        assert isinstance(segment, SegmentInfo)
        reference = wav[:, : segment.n_frames]
        pending = _Pending([], {}, index)
        if index < self.listen:
            self._keep(index, segment, 'reference', reference)
        for skipped in segment.skipped:
            self.failures.add('reading a file', skipped.reason)
        for system in self.systems:
            if all((system.name, kbps, index) in self.file.rows for kbps in system.rates):
                continue
            # an item that one system cannot take, e.g. for lack of memory, leaves out its rows
            with self.failures.caught(f'{system.name} on {segment.meta.path}'):
                self._reconstruct(system, index, segment, reference, pool, pending)
        return pending

    def _reconstruct(
        self,
        system: System,
        index: int,
        segment: SegmentInfo,
        reference: torch.Tensor,
        pool: ScoringPool,
        pending: _Pending,
    ) -> None:
        """Run an item through a system at each rate."""
        rate = self.dataset.sample_rate
        codes = None
        for rendition in system.reconstruct(reference[None], rate):
            row = make_row(system.name, rendition, segment, index)
            estimate = rendition.wav[0]
            codes = rendition.codes  # those of the highest rate, which comes last, are all
            if index < self.listen:
                self._keep(index, segment, f'{system.name}@{rendition.rate:g}', estimate)
            pending.rows.append((row, pool.submit(Pair(estimate, reference, rate))))
        if isinstance(system, Codec) and codes is not None:
            pending.codes[system.name] = codes[0].numpy()
            own = system.to_own(reference[None], rate)
            pending.rows[-1][0].update(stability(system, own))

    def _finish(self, pending: _Pending, pool: ScoringPool) -> None:
        """Write the rows of an item."""
        rows = []
        for row, ticket in pending.rows:
            rows.append({**row, **score_columns(pool.result(ticket))})
        for name, codes in pending.codes.items():
            path = self._codes_path(name, pending.item)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, codes.astype(np.uint16 if codes.max(initial=0) < 2**16 else np.int64))
        # last, since rows mark an item as done
        self.file.add(row for row in rows if key_of(row) not in self.file.rows)

    def _codes_path(self, system: str, index: int) -> Path:
        return self.folder / CODES / safe_stem(f'{system}.codes') / f'{index:05d}.npy'

    def _keep(self, index: int, segment: SegmentInfo, name: str, wav: torch.Tensor) -> None:
        """Write audio for reports."""
        folder = self.folder / AUDIO / f'{index:03d}_{safe_stem(segment.meta.path)}'
        write_audio(folder / f'{safe_stem(f"{name}.flac")}.flac', wav, self.dataset.sample_rate)

    # ---- codes -----------------------------------------------------------------------------------

    def token_statistics(self) -> Iterator[tuple[str, float, dict[str, Any]]]:
        """Yield (system, rate, statistics of its codes over all items), see `TokenStatistics`."""
        for system in self.systems:
            if not isinstance(system, Codec) or not system.model.cardinality:
                continue
            statistics = TokenStatistics(system.model.cardinality, system.model.frame_rate)
            for index in range(len(self.dataset)):
                path = self._codes_path(system.name, index)
                if path.exists():
                    statistics.add(np.load(path))
            for rate, number in system.codebooks.items():
                if number <= len(statistics.counts):
                    yield system.name, rate, statistics.compute(number)
