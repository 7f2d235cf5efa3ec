"""Selection, order, names and formats of the metrics in a line of the log."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import flashy

FORMATS = {
    'lr': '.2e',
    'd_lr': '.2e',
    '*_acc': '.1%',
    '*usage*': '.1%',
    'data_wait': '.1%',
    'bandwidth': '.2f',
    'duration': '.1f',
}
# Short names of metrics, so that a line fits on a terminal.
SHORT_NAMES = {
    'g_loss': 'loss',
    'codebook_usage_min': 'usage',
    'updates_per_second': 'it/s',
    'data_wait': 'wait',
}


def make_formatter(patterns: Sequence[str]) -> flashy.Formatter:
    """Return a formatter of the metrics that match one of the patterns."""
    return flashy.Formatter(
        FORMATS,
        default_format='.4g',
        include_formatted=False,
        exclude_keys=['*'],
        include_keys=patterns,
    )


def select(
    formatter: flashy.Formatter, patterns: Sequence[str], metrics: Mapping[str, float]
) -> dict[str, str]:
    """Format metrics for a line.

    Args:
        formatter: selects and formats them.
        patterns: patterns of names, in the order of the line; other metrics come last.
        metrics: all metrics.

    Returns:
        Texts by short name.
    """
    texts = formatter(metrics)

    def place(name: str) -> int:
        matches = (n for n, pattern in enumerate(patterns) if fnmatchcase(name, pattern))
        return next(matches, len(patterns))

    ordered = sorted(texts, key=place)
    return {SHORT_NAMES.get(name, name): texts[name].strip() for name in ordered}
