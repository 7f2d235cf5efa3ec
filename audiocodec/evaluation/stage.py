"""Evaluation of a model on the batches of a loader: the evaluate stage of training."""

import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from audiocodec.data import SegmentInfo
from audiocodec.evaluation.codec import Codec
from audiocodec.evaluation.pool import Pair, ScoringPool
from audiocodec.evaluation.rows import (
    INFO,
    TABLE,
    VERSION,
    Row,
    SharedRows,
    describe_metrics,
    make_row,
    row_files,
    score_columns,
    scores_of,
    write_csv,
    write_json,
)
from audiocodec.evaluation.systems import Rendition
from audiocodec.metrics import MetricSuite
from audiocodec.metrics.suite import Scores
from audiocodec.models.padded import by_length
from audiocodec.utils import distrib

logger = logging.getLogger(__name__)
Batch = tuple[torch.Tensor, list[SegmentInfo]]
UNFINISHED = 'unfinished.json'  # weights and settings of an evaluation that is not complete


def evaluate_batches(
    codec: Codec,
    batches: Iterable[Batch],
    suite: MetricSuite,
    folder: Path,
    workers: int = 1,
    named_rates: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Score a model on batches, add the scores to a suite and write them into a folder.

    What an interrupted evaluation of the same model with the same settings has written is not
    scored again; results of another one are replaced. A batch that fails, e.g. out of memory, is a
    failure of the suite, and is left out. Every worker must call it, with batches of its own.

    Args:
        codec: the model at its rates.
        batches: float [B, C, T] on the host, and the origin of each item.
        suite: receives the scores, under the names of its metrics.
        folder: where the rows go; created.
        workers: processes that score, this one included.
        named_rates: also add the scores of each rate as NAME_RATEkbps; those without a suffix are
            of the highest rate.
        settings: what the results depend on, apart from the weights; plain values.
    """
    stage = _Stage(codec, suite, folder, named_rates)
    with suite.failures.caught('reading earlier scores'):
        stage.begin({'weights': codec.fingerprint, **(settings or {})})
    with ScoringPool(suite.metrics, workers) as pool:
        scored = pool.score(stage.missing(batches))
        for _, group in itertools.groupby(scored, key=lambda pair: pair[0][0]):
            stage.add([(row, scores) for (_, row), scores in group])
    with suite.failures.caught('writing the scores'):
        stage.end()


class _Stage:
    """State of one evaluation of `evaluate_batches`, which describes the arguments."""

    def __init__(self, codec: Codec, suite: MetricSuite, folder: Path, named_rates: bool) -> None:
        self.codec = codec
        self.suite = suite
        self.folder = folder
        self.named_rates = named_rates
        self.rows = SharedRows(folder)

    def begin(self, origin: Mapping[str, Any]) -> None:
        """Read what an interrupted evaluation of the same origin has written."""
        distrib.from_rank_zero(lambda: self._clear(dict(origin)))
        self.rows.merge()
        if self.rows.rows and distrib.is_rank_zero():
            kept = len(self.rows.rows)
            logger.info('%d scores of the interrupted evaluation in %s kept', kept, self.folder)

    def _clear(self, origin: dict[str, Any]) -> None:
        path = self.folder / UNFINISHED
        if path.exists() and json.loads(path.read_text()) == origin:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in (*row_files(self.folder), self.folder / TABLE, self.folder / INFO):
            old.unlink(missing_ok=True)
        write_json(path, origin)

    def end(self) -> None:
        """Merge the rows of all workers, and write their table."""
        self.rows.merge()
        if distrib.is_rank_zero():
            rows = sorted(self.rows.rows.values(), key=lambda row: (row['item'], row['rate']))
            write_csv(self.folder / TABLE, rows)
            metrics = describe_metrics(self.suite.metrics)
            write_json(self.folder / INFO, {'version': VERSION, 'metrics': metrics})
            (self.folder / UNFINISHED).unlink()
            logger.info('scores of every item in %s', self.folder / TABLE)

    def missing(self, batches: Iterable[Batch]) -> Iterator[tuple[tuple[int, Row], Pair]]:
        """Yield the number of the batch, row and audio of each item that has no scores yet."""
        codec = self.codec
        for number, (wav, infos) in enumerate(batches):
            with self.suite.failures.caught('evaluating a batch'):
                lengths = [0 if self._is_done(info) else info.n_frames for info in infos]
                for group in by_length(wav, lengths):
                    for rendition in codec.reconstruct(group.wav, codec.sample_rate):
                        one = _of_one(rendition, len(group.places))
                        for place, estimate, reference in zip(
                            group.places, rendition.wav, group.wav
                        ):
                            row = make_row(codec.name, one, infos[place])
                            yield (number, row), Pair(estimate, reference, codec.sample_rate)

    def _is_done(self, segment: SegmentInfo) -> bool:
        """Return whether all rows of an item are there, and add its scores if they are."""
        keys = [(self.codec.name, rate, segment.index) for rate in self.codec.rates]
        if not all(key in self.rows.rows for key in keys):
            return False
        for key in keys:
            row = self.rows.rows[key]
            self._add_scores(row, scores_of(row, self.suite.metrics))
        return True

    def add(self, scored: Sequence[tuple[Row, Scores]]) -> None:
        """Add the scores of a batch, and write its rows."""
        scored = sorted(scored, key=lambda pair: (pair[0]['item'], pair[0]['rate']))
        for row, scores in scored:
            self._add_scores(row, scores)
        with self.suite.failures.caught('writing the scores'):
            self.rows.add({**row, **score_columns(scores)} for row, scores in scored)

    def _add_scores(self, row: Row, scores: Scores) -> None:
        if row['rate'] == self.codec.rates[-1]:
            self.suite.add(scores)
        if self.named_rates:
            self.suite.add(scores, f'_{row["rate"]:g}kbps')


def _of_one(rendition: Rendition, items: int) -> Rendition:
    """Return a rendition with the times of one of its items."""
    times: dict[str, Any] = {
        name: getattr(rendition, name) / items for name in ('encode_seconds', 'decode_seconds')
    }
    return rendition._replace(**times)
