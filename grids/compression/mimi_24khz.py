"""Mimi, causal, 24 kHz mono, 12.5 frames/s: with all losses, and with adversarial ones only.

To use your own data instead of the example recordings, bind dset='audio/default' with
datasource.train and the other splits, or dset='audio/folder' with datasource.folder. For a semantic
first codebook, bind {'losses.distill.weight': 1, 'losses.distill.teacher': FOLDER}.
"""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=8)
    launcher.bind_(solver='compression/mimi_24khz', dset='audio/example')
    launcher()
    launcher({'losses.l1.weight': None, 'losses.msspec.weight': None})
