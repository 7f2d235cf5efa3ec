"""Write a report: a folder with a page, its data, audio and pictures, which opens from disk."""

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from audiocodec.data import read_audio, write_audio
from audiocodec.dsp.loudness import loudness
from audiocodec.dsp.picture import audio_picture
from audiocodec.evaluation.summary import summarize
from audiocodec.report.bands import Band, drawn
from audiocodec.report.collect import Content, Item, collect
from audiocodec.utils.progress import Progress

STATIC = Path(__file__).parent / 'static'
PAGE = 'index.html'
DATA = 'data.js'
_MARK = 'static/report.js'  # a folder with it is a report, which may be replaced


def write_report(
    sources: Sequence[str],
    out: Path,
    title: str | None = None,
    items: int | None = None,
    bands: Sequence[Band] = (),
) -> Content:
    """Write a report.

    The data of the page is the object REPORT in `data.js`: `metrics`, `summary` (see
    `evaluation.summary.summarize`), `runs` and `items` as in `collect.Content`, and `bands`.

    Args:
        sources: see `collect.collect`.
        out: folder to write; an older report in it is replaced.
        title: title of the page.
        items: number of items to listen to; None: all whose audio was kept.
        bands: reference bands to draw behind the curves.

    Raises:
        ValueError: a source is not one, there is nothing to show, or `out` holds something else.
    """
    content = collect(sources)
    if not (content.rows or content.items or content.runs):
        raise ValueError(f'nothing to show in {", ".join(sources)}')
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise ValueError(f'{out} is not empty and not a report: choose another folder')
    metrics = [name for name in content.metrics if any(name in row for row in content.rows)]
    report = {
        'id': hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:8],
        'title': title or 'audiocodec report',
        'metrics': {name: content.metrics[name] for name in metrics},
        'summary': summarize(content.rows, metrics) if content.rows else [],
        'runs': [run._asdict() for run in content.runs],
        'bands': [drawn_band for band in bands for drawn_band in drawn(band)],
        'items': [],
    }
    for name in ('static', 'audio', 'pictures'):
        shutil.rmtree(out / name, ignore_errors=True)
    shutil.copytree(STATIC, out / 'static', ignore=shutil.ignore_patterns(PAGE))
    shutil.copy(STATIC / PAGE, out / PAGE)
    chosen = content.items[:items]
    with Progress(chosen, desc='Report', unit='item') as bar:
        report['items'] = [_write_item(out, number, item) for number, item in enumerate(bar)]
    text = json.dumps(report, separators=(',', ':'), allow_nan=False)
    (out / DATA).write_text(f'window.REPORT = {text};\n')
    return content


def _write_item(out: Path, number: int, item: Item) -> dict[str, Any]:
    """Write audio and pictures of an item, and return its data."""
    versions: list[dict[str, Any]] = []
    seconds = target = 0.0
    for place, version in enumerate(item.versions):
        wav, rate = read_audio(version.path)
        level = loudness(wav[:2], rate)
        if place == 0:
            target, seconds = level, wav.shape[-1] / rate
        wav = wav * _gain(wav, level, target)
        name = f'{number:03d}_{place:02d}'
        write_audio(out / 'audio' / f'{name}.flac', wav, rate)
        _write_picture(out / 'pictures' / f'{name}.webp', audio_picture(wav, rate))
        versions.append(
            {
                'label': version.label,
                'audio': f'audio/{name}.flac',
                'picture': f'pictures/{name}.webp',
                'scores': version.scores,
            }
        )
    return {'id': number, 'title': item.title, 'seconds': seconds, 'versions': versions}


def _gain(wav: torch.Tensor, level: float, target: float) -> float:
    """Return the factor to a loudness, no more than full scale allows; 1 for silence."""
    if not (math.isfinite(level) and math.isfinite(target)):
        return 1.0
    peak = max(wav.abs().max().item(), 1e-9)
    return min(10 ** ((target - level) / 20), 1 / peak)


def _write_picture(path: Path, picture: torch.Tensor) -> None:
    from PIL import Image  # comes with tensorboard, which draws its pictures with it

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture.permute(1, 2, 0).mul(255).round().byte().numpy()
    Image.fromarray(pixels).save(path, quality=80)
