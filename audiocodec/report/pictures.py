"""Pictures of a report as files, for a README or a paper; drawn by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audiocodec.data import read_audio
from audiocodec.report.bands import Band
from audiocodec.report.collect import Content, Item, Run
from audiocodec.utils.errors import require

CURVE = 'curve.png'
SPECTROGRAMS = 'spectrograms.png'
_METRIC = ('valid', 'mel')
_FLOOR = -80.0  # dB, of the colors


def write_pictures(content: Content, out: Path, bands: Sequence[Band] = ()) -> list[Path]:
    """Draw the validation curves of the runs, and the spectrograms of the first item.

    Needs the extra `notebook`.

    Args:
        content: see `collect.collect`.
        out: folder of `curve.png` and `spectrograms.png`.
        bands: reference bands behind the curves.

    Returns:
        The files written: those for which there is something to show.

    Raises:
        ValueError: matplotlib is not installed.
    """
    require('a picture', 'notebook', 'matplotlib')
    out.mkdir(parents=True, exist_ok=True)
    written = []
    runs = [run for run in content.runs if _METRIC[1] in run.stages.get(_METRIC[0], {})]
    if runs:
        written.append(_write(_curve(runs, bands), out / CURVE))
    if content.items:
        written.append(_write(_spectrograms(content.items[0]), out / SPECTROGRAMS))
    return written


def _curve(runs: Sequence[Run], bands: Sequence[Band]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout='constrained')
    axes = figure.subplots()
    stage, metric = _METRIC
    for band in bands:
        edges = band.edges.get(f'{stage}/{metric}')
        if edges is not None:
            label = f'{band.name}, reference band'
            axes.fill_between(band.updates, *edges, color='0.85', label=label)
    for run in runs:
        values = np.array(run.stages[stage][metric], dtype=float)  # None becomes NaN, a gap
        axes.plot(run.updates, values, marker='.', label=run.name)
    axes.set(xlabel='updates', ylabel=f'{stage} {metric}')
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _spectrograms(item: Item) -> Any:
    """Draw the reference above the last version."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout='constrained')
    shown = [item.versions[0], item.versions[-1]]
    for axes, version in zip(figure.subplots(2, sharex=True), shown):
        wav, rate = read_audio(version.path)
        samples = wav.mean(0).numpy()
        axes.specgram(
            samples, 1024, rate, noverlap=768, scale='dB', vmin=_FLOOR - 40, vmax=-40, cmap='magma'
        )
        axes.set(title=f'{item.title}: {version.label}', ylabel='Hz')
    axes.set(xlabel='seconds')
    return figure


def _write(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    return path
