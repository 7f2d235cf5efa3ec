"""Trains a tiny codec as one of several workers, or misbehaves. Usage: solver_worker.py FOLDER WHAT OVERRIDE...

WHAT: `train`; `raise:RANK` (a worker fails at update 2); `die:RANK` (it is killed).
"""

import os
import signal
import sys

from conftest import TINY

from audiocodec import train
from audiocodec.solvers import workers


def misbehave(solver, how):
    plain = solver.run_step

    def run_step(wav):
        if solver.updates == 2 and how == 'raise':
            raise IndexError('the third update is one too many')
        if solver.updates == 2 and how == 'die':
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(wav)

    solver.run_step = run_step


def main(folder, what, *overrides):
    workers.SILENCE = 5.
    sys.excepthook = train.show_config_errors
    how, _, rank = what.partition(':')
    xp = train.main.get_xp([*TINY, f'dora.dir={folder}', *overrides])
    train.main.init_xp(xp)
    with xp.enter():
        solver = train.get_solver(xp.cfg)
        if rank == os.environ.get('RANK', '0'):
            misbehave(solver, how)
        solver.run()


if __name__ == '__main__':
    main(*sys.argv[1:])
