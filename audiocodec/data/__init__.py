"""Audio data: files, manifests, folders, datasets and loaders."""

from audiocodec.data.audio import (
    AudioInfo,
    audio_info,
    convert_audio,
    read_audio,
    read_segment,
    write_audio,
)
from audiocodec.data.bad_files import BadFiles
from audiocodec.data.channels import convert_channels
from audiocodec.data.dataset import AudioDataset, SegmentInfo, Skipped
from audiocodec.data.index import (
    SPLITS,
    FolderSplits,
    index_folder,
    load_source,
    split,
    split_folder,
    with_share,
)
from audiocodec.data.loader import AudioLoader, LoaderDiedError, make_loader
from audiocodec.data.manifest import (
    AudioMeta,
    Summary,
    load_manifest,
    missing_files,
    save_manifest,
    summarize,
)
from audiocodec.data.readers import EXTENSIONS
from audiocodec.data.shards import is_address, is_shards, load_shards, make_shards
from audiocodec.dsp.loudness import loudness, normalize
from audiocodec.dsp.resample import resample

__all__ = [
    'EXTENSIONS',
    'SPLITS',
    'AudioDataset',
    'AudioInfo',
    'AudioLoader',
    'AudioMeta',
    'BadFiles',
    'FolderSplits',
    'LoaderDiedError',
    'SegmentInfo',
    'Skipped',
    'Summary',
    'audio_info',
    'convert_audio',
    'convert_channels',
    'index_folder',
    'is_address',
    'is_shards',
    'load_manifest',
    'load_shards',
    'load_source',
    'loudness',
    'make_loader',
    'make_shards',
    'missing_files',
    'normalize',
    'read_audio',
    'read_segment',
    'resample',
    'save_manifest',
    'split',
    'split_folder',
    'summarize',
    'with_share',
    'write_audio',
]
