"""DAC at 44.1, 24 and 16 kHz.

dora grid compression.dac_44khz
"""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=8)
    with launcher.job_array():
        for rate in ('44khz', '24khz', '16khz'):
            launcher(solver=f'compression/dac_{rate}', dset='audio/example')
