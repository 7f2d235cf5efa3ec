#!/usr/bin/env python
"""Make the reference band of a recipe from finished runs with several seeds.

python scripts/make_band.py SIG SIG SIG --out config/bands/debug.json --data 'dataset/example'
"""

import argparse
import datetime
from pathlib import Path

from benchmarks.common import machine

from audiocodec import train
from audiocodec.cli.bands import command_of
from audiocodec.report import bands
from audiocodec.report.collect import find, read_run


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('runs', metavar='SIG', nargs='+', help='runs that differ in their seeds')
    parser.add_argument('--out', required=True, metavar='FILE')
    parser.add_argument('--data', required=True, help='what they were trained on')
    args = parser.parse_args()
    folders = [find(run)[1] for run in args.runs]
    commands = {tuple(command_of(folder) or ()) for folder in folders}
    if len(commands) > 1:
        raise SystemExit(f'the runs differ in more than their seeds: {sorted(commands)}')
    (command,) = commands
    facts = {
        'command': ' '.join(['dora run', *command, 'seed=SEED']),
        'runs': len(folders),
        'data': args.data,
        'machine': machine('cpu')['machine'],
        'date': datetime.date.today().isoformat(),
    }
    out = Path(args.out)
    runs = [read_run(folder, folder.name) for folder in folders]
    bands.save(bands.make_band(out.stem, train.main.get_xp(list(command)).sig, runs, facts), out)


if __name__ == '__main__':
    main()
