#!/usr/bin/env python
"""Draw the results of `benchmark.py curve` and of a peer as one picture.

python scripts/plot_curves.py OUT.png 'ours=a.json,b.json' 'peer=c.json'
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from audiocodec.utils.files import check_out

COLORS = ('#0b6e99', '#c1440e', '#6b7280', '#3f7d20', '#8a4fae', '#b8860b')


def read(path: str) -> dict[str, list[float]]:
    """Return the curve in the last line of a file."""
    try:
        curve: dict[str, list[float]] = json.loads(Path(path).read_text().splitlines()[-1])['curve']
    except (OSError, LookupError, ValueError) as error:
        raise ValueError(f'{path}: not a result of `benchmark.py curve` ({error})') from error
    return curve


def read_all(entry: str) -> tuple[str, list[dict[str, list[float]]]]:
    """Return the name and the curves of `NAME=FILE,...`, one per seed."""
    name, separator, files = entry.rpartition('=')
    if not separator:
        raise ValueError(f'{entry}: expected NAME=FILE,...')
    curves = [read(file) for file in files.split(',')]
    if any(curve['update'] != curves[0]['update'] for curve in curves):
        raise ValueError(f'{entry}: the files are not validated after the same updates')
    return name, curves


def draw(axes: Any, key: str, label: str, entries: list[tuple[str, list[Any]]]) -> None:
    """Draw one metric over the updates: a line for the mean, a band for the range of the seeds."""
    for color, (name, curves) in zip(COLORS, entries):
        updates = curves[0]['update']
        columns = list(zip(*(curve[key] for curve in curves)))
        mean = [sum(column) / len(column) for column in columns]
        seeds = f', {len(curves)} seeds' if len(curves) > 1 else ''
        axes.plot(updates, mean, color=color, label=f'{name}{seeds}')
        axes.fill_between(
            updates, [*map(min, columns)], [*map(max, columns)], color=color, alpha=0.2, lw=0
        )
    axes.set_xlabel('updates')
    axes.set_title(label, loc='left', fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out')
    parser.add_argument('curves', nargs='+', metavar='NAME=FILE,...')
    args = parser.parse_args()
    try:
        if len(args.curves) > len(COLORS):
            raise ValueError(f'{len(args.curves)} curves: expected at most {len(COLORS)}')
        entries = [read_all(entry) for entry in args.curves]
        check_out(args.out)
    except ValueError as error:
        parser.error(str(error))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), constrained_layout=True)
    panels = {
        'mel': 'mel distance of held-out audio',
        'codebook_usage_min': 'codes used, worst codebook',
        'sisnr': 'SI-SNR, dB',
    }
    for panel, (key, label) in zip(axes, panels.items()):
        draw(panel, key, label, entries)
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(0, 1)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(args.out, dpi=110)


if __name__ == '__main__':
    main()
