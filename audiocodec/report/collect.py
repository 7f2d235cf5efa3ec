"""Collect what a report shows: scores and audio of evaluations, curves and samples of runs."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from audiocodec.evaluation.rows import INFO, ROWS, Row, RowFile, audio_name, label
from audiocodec.evaluation.runner import AUDIO
from audiocodec.run import checkpoint
from audiocodec.utils import paths

HISTORY = 'history.json'
_SAMPLE = re.compile(r'(?P<item>.+)\.(?P<kind>reference|reconstruction)\.\w+')


class Version(NamedTuple):
    """One version of an item.

    Attributes:
        label: `SYSTEM@RATE`, the name of a run, or 'reference'.
        path: audio file.
        scores: metrics by name.
    """

    label: str
    path: Path
    scores: dict[str, float]


class Item(NamedTuple):
    """An item to listen to.

    Attributes:
        title: name of its file.
        versions: the reference first.
    """

    title: str
    versions: list[Version]


class Run(NamedTuple):
    """Curves of a run.

    Attributes:
        name: name in the legend.
        updates: number of updates at the end of each epoch.
        stages: stage -> metric -> value of each epoch, None where it has none.
    """

    name: str
    updates: list[int]
    stages: dict[str, dict[str, list[float | None]]]


class Content(NamedTuple):
    """Everything that a report shows.

    Attributes:
        rows: of all evaluations.
        metrics: description, unit and direction of each metric.
        items: to listen to.
        runs: curves.
    """

    rows: list[Row]
    metrics: dict[str, dict[str, Any]]
    items: list[Item]
    runs: list[Run]


def collect(sources: Sequence[str]) -> Content:
    """Collect the content of evaluations and experiments.

    Args:
        sources: folders of `audiocodec evaluate`, folders of experiments or their signatures;
            NAME=SOURCE to choose the name of an experiment.

    Raises:
        ValueError: a source is neither, or has nothing to show.
    """
    rows: list[Row] = []
    metrics: dict[str, dict[str, Any]] = {}
    items: dict[Any, Item] = {}
    runs = []
    for source in sources:
        name, folder = find(source)
        evaluations = [folder] if (folder / INFO).is_file() else _stages(folder)
        for evaluation in evaluations:
            info = json.loads((evaluation / INFO).read_text())
            metrics.update(info['metrics'])
            found = list(RowFile(evaluation / ROWS).rows.values())
            names = _names(found, {row['system'] for row in rows}, folder.name, name)
            for key, item in _items(evaluation, found, names, metrics):
                _merge(items, key, item)
            rows += [{**row, 'system': names[row['system']]} for row in found]
        if (folder / HISTORY).is_file():
            label = name or folder.name
            runs.append(read_run(folder, label))
            for key, item in _samples(folder, label):
                _merge(items, key, item)
    return Content(rows, metrics, list(items.values()), runs)


def find(source: str) -> tuple[str | None, Path]:
    """Return the name, if one is given, and the folder of a source."""
    name, separator, place = source.partition('=')
    text = place if separator else source
    folder = Path(text).expanduser()
    if not folder.is_dir() and re.fullmatch(r'(//sig/)?[0-9a-f]{8}', text):
        places = paths.experiment_places(text.removeprefix('//sig/'))
        folder = next((place for place in places if place.is_dir()), folder)
    if not any((folder / file).is_file() for file in (INFO, HISTORY)):
        raise ValueError(
            f'{source!r}: expected a folder of `audiocodec evaluate` (with {INFO}), or an '
            f'experiment (its signature or folder, with {HISTORY} after its first epoch)'
        )
    return name if separator else None, folder


# ---- scores and audio of evaluations -------------------------------------------------------------


def _stages(folder: Path) -> list[Path]:
    """Return the latest evaluation of an experiment, if it has one."""
    found = [path.parent for path in folder.glob(f'evaluate/epoch_*/{INFO}')]
    return sorted(found, key=_epoch)[-1:]


def _epoch(folder: Path) -> int:
    return int(folder.name.removeprefix('epoch_'))


def _names(rows: Sequence[Row], taken: set[str], folder: str, chosen: str | None) -> dict[str, str]:
    """Return the names of systems in the report, which no other source has.

    Args:
        rows: of one source.
        taken: names of systems of other sources.
        folder: name of its folder; that of an experiment is the name of its system.
        chosen: name that the user chose for the experiment.
    """
    names = {}
    for system in dict.fromkeys(row['system'] for row in rows):
        name = chosen if chosen is not None and system == folder else system
        names[system] = f'{folder}/{name}' if name in taken else name
    return names


def _items(
    folder: Path, rows: Sequence[Row], names: Mapping[str, str], metrics: Mapping[str, Any]
) -> Iterator[tuple[Any, Item]]:
    """Yield the items of an evaluation whose audio was kept."""
    for place in sorted((folder / AUDIO).glob('*')):
        number, _, title = place.name.partition('_')
        versions = [Version('reference', place / audio_name('reference'), {})]
        key: Any = place.name
        for row in rows:
            if row['item'] != int(number):
                continue
            key = (row['path'], row['offset'], row['seconds'])
            path = place / audio_name(label(row['system'], row['rate']))
            if path.is_file():
                scores = {m: row[m] for m in metrics if row.get(m) is not None}
                version = label(names[row['system']], row['rate'])
                versions.append(Version(version, path, scores))
        yield key, Item(title, versions)


def _samples(folder: Path, run: str) -> Iterator[tuple[Any, Item]]:
    """Yield the samples of the last epoch of a run that wrote some."""
    epochs = sorted(folder.glob('samples/epoch_*'), key=_epoch)
    if not epochs:
        return
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(epochs[-1].iterdir()):
        match = _SAMPLE.fullmatch(path.name)
        if match is not None:
            files.setdefault(match['item'], {})[match['kind']] = path
    for name, pair in files.items():
        if len(pair) == 2:
            reference = Version('reference', pair['reference'], {})
            version = Version(run, pair['reconstruction'], {})
            title = name.split('_', 1)[-1]
            yield ('sample', name), Item(title, [reference, version])


def _merge(items: dict[Any, Item], key: Any, item: Item) -> None:
    """Add the versions of an item to those of another source."""
    known = items.setdefault(key, Item(item.title, []))
    labels = {version.label for version in known.versions}
    known.versions.extend(version for version in item.versions if version.label not in labels)


# ---- curves of runs ------------------------------------------------------------------------------


def read_run(folder: Path, name: str) -> Run:
    """Read the curves of an experiment."""
    history = json.loads((folder / HISTORY).read_text())
    per_epoch = _updates_per_epoch(folder)
    stages: dict[str, dict[str, list[float | None]]] = {}
    for epoch, metrics_of in enumerate(history):
        for stage, metrics in metrics_of.items():
            for metric, value in metrics.items():
                curve = stages.setdefault(stage, {}).setdefault(metric, [None] * len(history))
                curve[epoch] = value if value == value and abs(value) < 1e30 else None
    return Run(name, [per_epoch * (epoch + 1) for epoch in range(len(history))], stages)


def _updates_per_epoch(folder: Path) -> int:
    """Return the updates of an epoch; 1, so that epochs are counted, if they are not known."""
    try:
        content = checkpoint.load(folder / 'checkpoint.th', mmap=True)
        optim = yaml.safe_load(content['config'])['optim']
        return int(optim['total_updates'] // optim['epochs'])
    except (ValueError, KeyError, TypeError):
        return 1
