"""Our own recipes: 24 kHz mono, 16 kHz speech, 48 kHz stereo.

dora grid compression.codec_24khz
"""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=8)
    with launcher.job_array():
        for name in ('24khz', '16khz_speech', '48khz_stereo'):
            launcher(solver=f'compression/codec_{name}', dset='audio/example')
