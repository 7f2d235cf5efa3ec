"""The reference band of an experiment, for the commands that show it."""

import json
from collections.abc import Iterator
from pathlib import Path

from audiocodec.report import bands
from audiocodec.report.bands import Band
from audiocodec.report.collect import HISTORY, read_run

ARGUMENTS = '.argv.json'  # written by Dora: the command of an experiment


def command_of(folder: Path) -> list[str] | None:
    """Return the overrides of an experiment without its seed; None if they are not known."""
    path = folder / ARGUMENTS
    if not path.is_file():
        return None
    return [one for one in json.loads(path.read_text()) if not one.startswith('seed=')]


def band_of(folder: Path) -> Band | None:
    """Return the reference band of an experiment: that of its command without the seed."""
    command = command_of(folder)
    if command is None:
        return None
    from audiocodec import train  # only now: it imports the frameworks

    try:
        sig = train.main.get_xp(command).sig
    except ValueError:  # of an older version, or with classes that are not allowed here
        return None
    return bands.find(sig)


def band_rows(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield rows that say whether a run is inside its band, if it has one."""
    band = band_of(folder) if (folder / HISTORY).is_file() else None
    if band is None:
        return
    for check in bands.check(band, read_run(folder, folder.name)):
        place = 'inside' if check.is_inside else 'OUTSIDE'
        yield (
            f'band {check.key}',
            f'{place} the band of {band.name}: {check.value:.4g}, expected {check.low:.4g} to '
            f'{check.high:.4g} at {check.updates} updates',
        )
