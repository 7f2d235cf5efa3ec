"""Test grid: three small codecs on the example recordings, in one Slurm job array.

dora grid compression.debug                  # on a cluster
dora grid compression.debug --dry_run --init # list the experiments; works without Slurm
"""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=1, cpus_per_gpu=2, mem_per_gpu=4, time=60)
    launcher.bind_(solver='compression/debug')
    with launcher.job_array():
        launcher()
        launcher({'rvq.q_dropout': False})
        launcher({'rvq.n_q': 4})
