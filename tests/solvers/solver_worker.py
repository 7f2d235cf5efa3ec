"""Train a tiny codec as one of several workers, or fail: solver_worker.py FOLDER WHAT OVERRIDE...

WHAT is `train`, or what a worker does at update 2: `raise:RANK` (raise an error), `die:RANK` (be
killed, while a child process survives), `hang:RANK`, `pause:RANK` (stop until SIGCONT). With
`+alone`, the others do not wait for it in a collective but hang elsewhere, as for a GPU.
"""

import os
import signal
import sys
import time
from pathlib import Path

from audiocodec import train

sys.path.insert(0, str(Path(__file__).parents[1] / 'support'))
from tiny import TINY


def fail(how):
    if how == 'raise':
        raise IndexError('the third update is one too many')
    if how == 'hang':
        time.sleep(1000)
    if how == 'pause':
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == 'die':
        if os.fork() == 0:
            # Whoever waits for the end of the output must not wait for this process.
            os.closerange(0, 3)
            time.sleep(120)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)


def misbehave(solver, how):
    plain = solver.run_step

    def run_step(wav):
        if solver.updates == 2:
            fail(how)
        return plain(wav)

    solver.run_step = run_step


def main(folder, what, *overrides):
    sys.excepthook = train.show_config_errors
    what, *alone = what.split('+')
    how, _, rank = what.partition(':')
    xp = train.main.get_xp([*TINY, f'dora.dir={folder}', *overrides])
    train.main.init_xp(xp)
    with xp.enter():
        solver = train.get_solver(xp.cfg)
        if rank == os.environ.get('RANK', '0'):
            misbehave(solver, how)
        elif alone:
            misbehave(solver, 'hang')
        solver.run()


if __name__ == '__main__':
    main(*sys.argv[1:])
