"""Six quantizers in the same small codec on the example recordings: an ablation in one line each.

audiocodec grid compression.quantizers       # here, without a cluster
dora grid compression.quantizers             # on a cluster
"""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=1, cpus_per_gpu=2, mem_per_gpu=8, time=60)
    launcher.bind_(solver='compression/debug')
    with launcher.job_array():
        launcher()  # rvq
        launcher({'quantizer.n_q': 8, 'quantizer.bins': 256}, quantizer='simvq')
        launcher({'quantizer.n_q': 8, 'quantizer.bins': 256}, quantizer='dac')
        launcher({'quantizer.n_q': 8, 'quantizer.levels': [4, 4, 4, 4]}, quantizer='rfsq')
        launcher(quantizer='lfq')
        launcher(quantizer='vae')
