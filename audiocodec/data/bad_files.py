"""Files that cannot be read while a loader runs: each named once, counted, and a run with too many
of them stopped.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from audiocodec.data.dataset import SegmentInfo, Skipped
from audiocodec.data.manifest import printable
from audiocodec.utils import distrib

logger = logging.getLogger(__name__)

MAX_FRACTION = 0.01
_GRACE = (
    10  # bad files that never stop a run, however few the others: one among twenty is no reason
)
_NAMED = 5  # in the error


class BadFiles:
    """Counts what a loader skipped, one pass over the data (an epoch) at a time.

    Every draw of an unreadable file is stood in for by another draw (see `dataset.AudioDataset`). A
    pass is given up when more than `max_fraction` of its draws so far were of unreadable files, and
    these are more than ten files.

    Each worker (rank) judges by its own draws, a fair sample of all, so that nothing needs to be
    communicated when one gives up. `sync` puts the workers' counts together, and each file's name
    into the first one's log.

    Args:
        max_fraction: share of the draws, 0 to 1. At 1 a run is never stopped, at 0 by the first bad
            file.
        named: files that were named already; several loaders that share it name a file once.

    Raises:
        ValueError: if `max_fraction` is not from 0 to 1.
    """

    def __init__(self, max_fraction: float = MAX_FRACTION, named: set[str] | None = None) -> None:
        if not 0 <= max_fraction <= 1:
            raise ValueError(
                f'max_bad_fraction={max_fraction}: expected a share of the draws, 0 to 1'
            )
        self.max_fraction = max_fraction
        self._named = set() if named is None else named
        self.start_pass()

    def start_pass(self) -> None:
        """Count from zero; what was named before is not named again."""
        self._shared, self._own = _Counts(), _Counts()

    def update(self, infos: Sequence[SegmentInfo]) -> None:
        """Count a batch.

        Raises:
            ValueError: too many files cannot be read; lists some, with the reasons.
        """
        skipped = [one for info in infos for one in info.skipped]
        self._own.add(len(infos), skipped)
        for path, reason in skipped:
            self._name(path, reason)
        if skipped:
            self._judge()

    def sync(self) -> None:
        """Put the counts of all workers together; every worker must call it (before `metrics`, or
        saving state).
        """
        for counts in distrib.all_gather_object(self._own):
            self._shared.merge(counts)
        self._own = _Counts()
        if distrib.is_rank_zero():
            for path, (_, reason) in self._shared.files.items():
                self._name(path, reason)

    def metrics(self) -> dict[str, float]:
        """Number of different files skipped in this pass, over all workers; every worker must call
        it.
        """
        self.sync()
        return {'skipped_files': float(len(self._shared.files))}

    def state_dict(self) -> dict[str, Any]:
        """The counts of this pass: those of all workers at the latest `sync`, and this worker's
        since then.
        """
        return {'shared': self._shared.state_dict(), 'own': self._own.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave: go on in the middle of a pass."""
        self._shared, self._own = _Counts.of(state['shared']), _Counts.of(state['own'])

    @staticmethod
    def merge(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The state of one worker that had all the draws of several."""
        own = _Counts()
        for state in states:
            own.merge(_Counts.of(state['own']))
        return {'shared': states[0]['shared'], 'own': own.state_dict()}

    def _name(self, path: str, reason: str) -> None:
        if path not in self._named:
            self._named.add(path)
            logger.warning('Skipped: %s', printable(reason))

    def _judge(self) -> None:
        files = {**self._shared.files, **self._own.files}
        bad, draws = self._shared.bad + self._own.bad, self._shared.draws + self._own.draws
        if len(files) <= (_GRACE if self.max_fraction else 0) or bad <= self.max_fraction * draws:
            return
        reasons = '\n'.join(f'  {reason}' for _, reason in list(files.values())[:_NAMED])
        raise ValueError(
            f'{bad} of {draws} draws ({bad / draws:.1%}) met a file that cannot be read '
            f'({len(files)} different ones), '
            f'more than dataset.max_bad_fraction={self.max_fraction:g}. Among them:\n{reasons}\n'
            'audiocodec doctor SOURCE --clean OUT.jsonl.gz finds them all, and writes a manifest '
            'of the others.'
        )


class _Counts:
    """Draws, and for every file skipped how often and why."""

    def __init__(self) -> None:
        self.draws = 0
        self.files: dict[str, tuple[int, str]] = {}

    @property
    def bad(self) -> int:
        """Draws of unreadable files."""
        return sum(times for times, _ in self.files.values())

    def add(self, items: int, skipped: Sequence[Skipped]) -> None:
        """Count some items and what was skipped for them."""
        self.draws += items + len(skipped)
        for path, reason in skipped:
            self.files[path] = (self.files.get(path, (0, ''))[0] + 1, reason)

    def state_dict(self) -> dict[str, Any]:
        """The counts, in lists and dicts."""
        return {
            'draws': self.draws,
            'files': {path: list(count) for path, count in self.files.items()},
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> '_Counts':
        """What `state_dict` gave."""
        counts = cls()
        counts.draws = state['draws']
        counts.files = {path: (times, why) for path, (times, why) in state['files'].items()}
        return counts

    def merge(self, other: '_Counts') -> None:
        """Add other counts."""
        self.draws += other.draws
        for path, (times, reason) in other.files.items():
            self.files[path] = (self.files.get(path, (0, ''))[0] + times, reason)
