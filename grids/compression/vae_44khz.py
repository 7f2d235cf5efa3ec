"""The continuous autoencoder at 44.1 kHz, with three weights of its bottleneck.

dora grid compression.vae_44khz
"""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=8)
    launcher.bind_(solver='compression/vae_44khz', dset='audio/example')
    with launcher.job_array():
        for weight in (2e-5, 2e-4, 2e-3):
            launcher({'losses.kl.weight': weight})
