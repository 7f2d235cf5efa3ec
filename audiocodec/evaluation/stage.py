"""Evaluation of a model on the batches of a loader: the evaluate stage of training."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from audiocodec.data import SegmentInfo
from audiocodec.evaluation.codec import Codec
from audiocodec.evaluation.pool import Pair, ScoringPool
from audiocodec.evaluation.rows import Row, make_row, score_columns
from audiocodec.evaluation.systems import Rendition
from audiocodec.metrics import MetricSuite
from audiocodec.utils.failures import Failures


class Group(NamedTuple):
    """Items of a batch that have the same length.

    Attributes:
        places: their places in the batch.
        wav: [B, C, T], without padding.
    """

    places: list[int]
    wav: torch.Tensor


def by_length(wav: torch.Tensor, lengths: Sequence[int]) -> Iterator[Group]:
    """Split a padded batch by length, so that no model sees padding.

    Args:
        wav: [B, C, T].
        lengths: samples of each item without padding.

    Yields:
        The groups, in the order of their first items; items without samples are left out.
    """
    for length in dict.fromkeys(lengths):
        if length > 0:
            places = [place for place, other in enumerate(lengths) if other == length]
            yield Group(places, wav[places, :, :length])


def evaluate_batches(
    codec: Codec,
    batches: Iterable[tuple[torch.Tensor, list[SegmentInfo]]],
    suite: MetricSuite,
    workers: int = 1,
    named_rates: bool = False,
) -> list[Row]:
    """Score a model on batches, and add the scores to a suite.

    A batch that fails, e.g. out of memory, is a failure of the suite, and is left out.

    Args:
        codec: the model at its rates.
        batches: float [B, C, T] on the host, and the origin of each item.
        suite: receives the scores, under the names of its metrics.
        workers: processes that score, this one included.
        named_rates: also add the scores of each rate as NAME_RATEkbps; those without a suffix are
            of the highest rate.

    Returns:
        A row for each item and rate, in order.
    """
    rows = []
    with ScoringPool(suite.metrics, workers) as pool:
        for row, scores in pool.score(_renditions(codec, batches, suite.failures)):
            if row['rate'] == codec.rates[-1]:
                suite.add(scores)
            if named_rates:
                suite.add(scores, f'_{row["rate"]:g}kbps')
            rows.append({**row, **score_columns(scores)})
    return rows


def _renditions(
    codec: Codec,
    batches: Iterable[tuple[torch.Tensor, list[SegmentInfo]]],
    failures: Failures,
) -> Iterator[tuple[Row, Pair]]:
    """Yield row and audio of each item at each rate."""
    rate = codec.sample_rate
    for wav, infos in batches:
        with failures.caught('evaluating a batch'):
            for group in by_length(wav, [info.n_frames for info in infos]):
                for rendition in codec.reconstruct(group.wav, rate):
                    one = _of_one(rendition, len(group.places))
                    for place, estimate, reference in zip(group.places, rendition.wav, group.wav):
                        row = make_row(codec.name, one, infos[place])
                        yield row, Pair(estimate, reference, rate)


def _of_one(rendition: Rendition, items: int) -> Rendition:
    """Return a rendition with the times of one of its items."""
    times: dict[str, Any] = {
        name: getattr(rendition, name) / items for name in ('encode_seconds', 'decode_seconds')
    }
    return rendition._replace(**times)
