"""EnCodec, the codec of MusicGen: 32 kHz mono, 2.2 kbps.

Bind your own data in place of the example recordings: dset='audio/default' with datasource.train
and the others, or dset='audio/folder' with datasource.folder."""

from dora import Launcher

from ._explorers import CompressionExplorer


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=8)
    launcher.bind_(solver='compression/encodec_musicgen_32khz', dset='audio/example')
    launcher()
