"""Speech at 16 kHz with one FSQ codebook, and with other numbers of codes.

dora grid compression.fsq_16khz
"""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=8)
    launcher.bind_(solver='compression/fsq_16khz', dset='audio/example')
    with launcher.job_array():
        for levels in ([8, 5, 5, 5], [7, 5, 5, 5, 5], [8, 8, 8, 6, 5]):
            launcher({'quantizer.levels': levels})
