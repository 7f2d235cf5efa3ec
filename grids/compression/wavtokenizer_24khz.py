"""WavTokenizer, 24 kHz mono, one codebook: 75 codes per second, and 40.

To use your own data instead of the example recordings, bind dset='audio/default' with
datasource.train and the other splits, or dset='audio/folder' with datasource.folder.
"""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=8)
    launcher.bind_(solver='compression/wavtokenizer_24khz', dset='audio/example')
    launcher()
    launcher({'seanet.ratios': [6, 5, 5, 4], 'decoder.hop_length': 600})
