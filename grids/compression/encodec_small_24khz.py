"""The small EnCodec at 24 kHz, on the example recordings, with three seeds."""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=1, cpus_per_gpu=2, mem_per_gpu=8, time=60)
    launcher.bind_(solver='compression/encodec_small_24khz')
    with launcher.job_array():
        for seed in (1, 2, 3):
            launcher(seed=seed)
