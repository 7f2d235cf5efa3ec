"""SNAC, 24 kHz mono, 0.98 kbps.

To use your own data instead of the example recordings, bind dset='audio/default' with
datasource.train and the other splits, or dset='audio/folder' with datasource.folder.
"""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=8)
    launcher.bind_(solver='compression/snac_24khz', dset='audio/example')
    launcher()
