"""`audiocodec grid NAME`: run the experiments of a grid on this machine, without a cluster."""

import argparse
import re
import shutil
import sys
from pathlib import Path

from dora import grid as dora_grid

from audiocodec import train
from audiocodec.grid.find import Entry, find_entries, find_explorer, select
from audiocodec.grid.jobs import Job
from audiocodec.grid.queue import Queue
from audiocodec.grid.slots import Slots, visible_gpus
from audiocodec.run import records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('name', metavar='GRID', help='as for dora grid, such as compression.debug')
    parser.add_argument(
        'patterns',
        metavar='PATTERN',
        nargs='*',
        help='run only the experiments with these numbers, or with these parts in their names',
    )
    parser.add_argument(
        '--slots',
        type=int,
        metavar='N',
        help='experiments at the same time (default: as many as fit the GPUs; on a CPU, 1)',
    )
    parser.add_argument(
        '--gpus',
        type=int,
        metavar='N',
        help='GPUs of each experiment (default: what the grid asks for, at most all)',
    )
    parser.add_argument(
        '--interval', type=float, default=1.0, metavar='MINUTES', help='between two tables'
    )
    parser.add_argument('--dry-run', action='store_true', help='list the experiments, run nothing')


def run(args: argparse.Namespace) -> int:
    """Run the experiments; 1 if one failed or was stopped."""
    if args.gpus is not None and args.gpus < 1:
        raise ValueError(f'--gpus {args.gpus}: expected at least 1')
    if not args.interval > 0:
        raise ValueError(f'--interval {args.interval}: expected more than 0')
    main = train.main
    slots = Slots(visible_gpus(), args.slots)
    package = main.dora.grid_package or ''
    explorer = find_explorer(args.name, package)
    entries = select(find_entries(main, explorer), args.patterns, main)
    jobs = [_job(entry, args.gpus, slots) for entry in entries]
    table = dora_grid.RunGridArgs()

    def show() -> None:
        dora_grid.monitor(table, main, explorer, jobs, _print)
        width = shutil.get_terminal_size().columns
        for job in jobs:
            if job.state() == 'RUNNING' and (lines := job.last_lines(1)):
                print(f'{job.xp.sig}: {lines[0]}'[:width])

    if args.dry_run:
        show()
        return 0
    for job in jobs:
        main.init_xp(job.xp)
        _link(main.dora.dir / 'grids' / args.name / job.xp.sig, job.xp.folder)
    Queue(jobs, slots, show, args.interval * 60).run()
    return 0 if all(job.state() == 'COMPLETED' for job in jobs) else 1


def _print(text: str = '', *more: str) -> None:
    """Print a table of Dora, without its colors where they would be characters."""
    line = ' '.join([text, *more])
    print(line if sys.stdout.isatty() else re.sub(r'\x1b\[[\d;]*m', '', line), flush=True)


def _job(entry: Entry, gpus: int | None, slots: Slots) -> Job:
    wanted = entry.gpus if gpus is None else gpus
    is_finished = records.is_finished(entry.xp.folder, entry.xp.cfg)
    return Job(entry.xp, wanted, slots.workers(wanted), is_finished)


def _link(link: Path, folder: Path) -> None:
    """Link an experiment in the folder of its grid, as `dora grid` does."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(folder)
