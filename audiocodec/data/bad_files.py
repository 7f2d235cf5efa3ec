"""Unreadable files during training: counted, each logged once, and an error if there are many."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from audiocodec.data.dataset import SegmentInfo, Skipped
from audiocodec.data.manifest import printable
from audiocodec.utils import distrib

logger = logging.getLogger(__name__)

MAX_FRACTION = 0.01
_GRACE = 10  # bad files that never stop a run: one of twenty is not a reason to stop
_NAMED = 5  # files named in the error


class BadFiles:
    """Counter of the files that a loader skipped in a pass over the data (an epoch).

    Every unreadable file is replaced by another random file (see `dataset.AudioDataset`). A pass
    fails when more than `max_fraction` of its draws so far hit unreadable files, and these are more
    than ten files.

    Each worker (rank) decides by its own draws, which are a fair sample of all draws, so that a
    failing worker need not communicate. `sync` adds up the counts of all workers, and logs the
    files of all of them on the first.

    Args:
        max_fraction: fraction of the draws, in [0, 1]. 1 never stops a run, 0 stops it at the first
            bad file.
        named: files that are already in the log; loaders that share this set log a file once.

    Raises:
        ValueError: if `max_fraction` is not in [0, 1].
    """

    def __init__(self, max_fraction: float = MAX_FRACTION, named: set[str] | None = None) -> None:
        if not 0 <= max_fraction <= 1:
            raise ValueError(
                f'max_bad_fraction={max_fraction}: expected a fraction of the draws in [0, 1]'
            )
        self.max_fraction = max_fraction
        self._named = set() if named is None else named
        self.start_pass()

    def start_pass(self) -> None:
        """Reset the counts; files that were logged before are not logged again."""
        self._shared = _Counts()  # of all workers, up to the last `sync`
        self._own = _Counts()  # of this worker, since then

    def update(self, infos: Sequence[SegmentInfo]) -> None:
        """Count a batch.

        Raises:
            ValueError: too many files cannot be read; lists some of them with the reasons.
        """
        skipped = [one for info in infos for one in info.skipped]
        self._own.add(len(infos), skipped)
        for path, reason in skipped:
            self._name(path, reason)
        if skipped:
            self._check_limit()

    def sync(self) -> None:
        """Add up the counts of all workers. Collective; call it before saving state."""
        for counts in distrib.all_gather_object(self._own):
            self._shared.merge(counts)
        self._own = _Counts()
        if distrib.is_rank_zero():
            for path, (_, reason) in self._shared.files.items():
                self._name(path, reason)

    def metrics(self) -> dict[str, float]:
        """Return the number of distinct files skipped in this pass by all workers. Collective."""
        self.sync()
        return {'skipped_files': float(len(self._shared.files))}

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of this pass: all workers' at the last `sync`, and this one's since."""
        return {'shared': self._shared.state_dict(), 'own': self._own.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts, to continue in the middle of a pass."""
        self._shared = _Counts.of(state['shared'])
        self._own = _Counts.of(state['own'])

    @staticmethod
    def merge(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Merge the states of several workers into that of one with all their draws."""
        own = _Counts()
        for state in states:
            own.merge(_Counts.of(state['own']))
        return {'shared': states[0]['shared'], 'own': own.state_dict()}

    def _name(self, path: str, reason: str) -> None:
        if path not in self._named:
            self._named.add(path)
            logger.warning('Skipped: %s', printable(reason))

    def _check_limit(self) -> None:
        files = {**self._shared.files, **self._own.files}
        bad = self._shared.bad + self._own.bad
        draws = self._shared.draws + self._own.draws
        grace = _GRACE if self.max_fraction else 0
        if len(files) <= grace or bad <= self.max_fraction * draws:
            return
        reasons = '\n'.join(f'  {reason}' for _, reason in list(files.values())[:_NAMED])
        raise ValueError(
            f'{bad} of {draws} draws ({bad / draws:.1%}) hit unreadable files '
            f'({len(files)} distinct files), '
            f'more than dataset.max_bad_fraction={self.max_fraction:g}. Among them:\n{reasons}\n'
            'Run audiocodec doctor SOURCE --clean OUT.jsonl.gz to find them all and write a '
            'manifest of the others'
        )


class _Counts:
    """Number of draws, and for every skipped file how often and why."""

    def __init__(self) -> None:
        self.draws = 0
        self.files: dict[str, tuple[int, str]] = {}

    @property
    def bad(self) -> int:
        """Number of draws that hit unreadable files."""
        return sum(times for times, _ in self.files.values())

    def add(self, items: int, skipped: Sequence[Skipped]) -> None:
        """Count items, and the files skipped for them."""
        self.draws += items + len(skipped)
        for path, reason in skipped:
            self.files[path] = (self.files.get(path, (0, ''))[0] + 1, reason)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as lists and dicts."""
        return {
            'draws': self.draws,
            'files': {path: list(count) for path, count in self.files.items()},
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> '_Counts':
        """Restore counts from a `state_dict`."""
        counts = cls()
        counts.draws = state['draws']
        counts.files = {path: (times, why) for path, (times, why) in state['files'].items()}
        return counts

    def merge(self, other: '_Counts') -> None:
        """Add other counts."""
        self.draws += other.draws
        for path, (times, reason) in other.files.items():
            self.files[path] = (self.files.get(path, (0, ''))[0] + times, reason)
