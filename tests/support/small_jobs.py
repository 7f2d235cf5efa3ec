"""Jobs of a local grid that run a short program in place of a training."""

import sys
from types import SimpleNamespace

from audiocodec.grid.jobs import Job


class SmallJob(Job):
    def __init__(self, folder, name, program, is_finished=False, gpus=1):
        (folder / name).mkdir(parents=True, exist_ok=True)
        self.program = program
        xp = SimpleNamespace(sig=name, folder=folder / name, argv=[])
        super().__init__(xp, gpus, 1, is_finished)

    def command(self):
        return [sys.executable, '-c', self.program]
