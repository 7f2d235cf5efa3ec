"""Reference bands: what the curves of a recipe look like in a sound run.

A band is made of runs of one recipe with several seeds. A run belongs to it if it has the same
signature, apart from the seed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from audiocodec.report.collect import Run
from audiocodec.utils import paths

FOLDER = 'bands'  # in config/
KEYS = ('valid/mel', 'valid/sisnr', 'train/codebook_usage_min')
_WIDTH = 3.0  # standard deviations on each side
_WINDOW = 2  # epochs on each side over which variances are averaged: a few seeds tell little


class Band(NamedTuple):
    """Band of a recipe.

    Attributes:
        name: name of its file.
        sig: signature of the recipe with the default seed.
        facts: how it was made: command, data, machine, date.
        updates: numbers of updates.
        edges: 'STAGE/METRIC' -> low and high at each number of updates.
    """

    name: str
    sig: str
    facts: dict[str, Any]
    updates: list[int]
    edges: dict[str, tuple[list[float], list[float]]]


class Check(NamedTuple):
    """A metric of a run beside its band, at the last epoch that both have.

    Attributes:
        key: 'STAGE/METRIC'.
        updates: number of updates.
        value: of the run.
        low: of the band.
        high: of the band.
    """

    key: str
    updates: int
    value: float
    low: float
    high: float

    @property
    def is_inside(self) -> bool:
        """True if the value is in the band."""
        return self.low <= self.value <= self.high


def make_band(name: str, sig: str, runs: Sequence[Run], facts: Mapping[str, Any]) -> Band:
    """Make a band of runs that differ in their seeds: mean, and three standard deviations.

    Args:
        name: name of the band.
        sig: see `Band`.
        runs: at least two, with the same updates.
        facts: see `Band`.

    Raises:
        ValueError: too few runs, or of different length.
    """
    updates = runs[0].updates
    if len(runs) < 2 or any(run.updates != updates for run in runs):
        raise ValueError('a band needs at least two runs with the same numbers of updates')
    edges = {}
    for key in KEYS:
        stage, metric = key.split('/')
        if not all(metric in run.stages.get(stage, {}) for run in runs):
            continue
        curves = np.array([run.stages[stage][metric] for run in runs], dtype=np.float64)
        variances = curves.var(0, ddof=1)
        window = [
            variances[max(0, epoch - _WINDOW) : epoch + _WINDOW + 1].mean()
            for epoch in range(len(updates))
        ]
        spread = _WIDTH * np.sqrt(window)
        mean = curves.mean(0)
        edges[key] = ((mean - spread).tolist(), (mean + spread).tolist())
    return Band(name, sig, dict(facts), list(updates), edges)


def save(band: Band, path: Path) -> None:
    """Write a band."""
    edges = {
        key: {'low': _rounded(low), 'high': _rounded(high)}
        for key, (low, high) in band.edges.items()
    }
    content = {'sig': band.sig, **band.facts, 'updates': band.updates, 'bands': edges}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + '\n')


def load(path: Path) -> Band:
    """Read a band."""
    content = json.loads(path.read_text())
    edges = {key: (edge['low'], edge['high']) for key, edge in content.pop('bands').items()}
    sig, updates = content.pop('sig'), content.pop('updates')
    return Band(path.stem, sig, content, updates, edges)


def find(sig: str) -> Band | None:
    """Return the band that the project ships for a signature with the default seed."""
    for path in sorted((paths.ROOT / 'config' / FOLDER).glob('*.json')):
        band = load(path)
        if band.sig == sig:
            return band
    return None


def check(band: Band, run: Run) -> list[Check]:
    """Compare a run with its band, at the last epoch in which it has each metric."""
    found = []
    for key, (low, high) in band.edges.items():
        stage, metric = key.split('/')
        values = dict(zip(run.updates, run.stages.get(stage, {}).get(metric, ())))
        common = [n for n in band.updates if values.get(n) is not None]
        if common:
            place = band.updates.index(common[-1])
            value = values[common[-1]]
            assert value is not None
            found.append(Check(key, common[-1], value, low[place], high[place]))
    return found


def drawn(band: Band) -> list[dict[str, Any]]:
    """Return a band as the page draws it."""
    bands = []
    for key, (low, high) in band.edges.items():
        stage, metric = key.split('/')
        bands.append(
            {
                'name': band.name,
                'stage': stage,
                'metric': metric,
                'updates': band.updates,
                'low': low,
                'high': high,
            }
        )
    return bands


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f'{value:.5g}') if math.isfinite(value) else value for value in values]
