"""Readers of audio files: libsndfile, and FFmpeg's libraries for what it does not know."""

import os

from audiocodec.data.readers import libav, sndfile, tar
from audiocodec.data.readers.base import Reader
from audiocodec.data.readers.window import PartReader, file_of, find_part, name_part

# suffixes of files that libsndfile reads
SNDFILE = (
    '.wav', '.wave', '.bwf', '.rf64', '.w64', '.flac', '.ogg', '.oga', '.ogv', '.opus', '.mp3',
    '.mp2', '.aif', '.aiff', '.aifc', '.caf', '.au', '.snd', '.sph', '.voc',
)  # fmt: skip
EXTENSIONS = (*SNDFILE, *libav.EXTENSIONS)

__all__ = ['EXTENSIONS', 'SNDFILE', 'Reader', 'file_of', 'name_part', 'open_audio']

# in what libsndfile says about formats that it does not know
_UNKNOWN = ('not recognised', 'nsupported')
# at the start of OGG files that libsndfile does not read
_OTHER = (b'\x7fFLAC', b'Speex   ')


def open_audio(path: str | os.PathLike[str]) -> Reader:
    """Open a file, a part of it (`PATH#t=START,END` in seconds), or a member of a tar, for reading.

    Raises:
        ValueError: no such file, not audio, or a format that needs the extra `av`; the message
            names the file.
    """
    path = os.fspath(path)
    part = find_part(path)
    if part.start is not None and part.end is not None:
        reader = open_audio(part.path)
        try:
            return PartReader(path, reader, part.start, part.end)
        except ValueError:
            reader.close()
            raise
    member = tar.find_member(path)
    if member is not None:
        return tar.open_member(member, open_audio)
    if not os.path.isfile(path):
        raise ValueError(f'{path}: {"is not a file" if os.path.exists(path) else "no such file"}')
    try:
        reader = sndfile.open_sndfile(path)
    except ValueError as error:
        reader = _by_libav(path, error)
    try:
        reader.check()
    except ValueError:
        reader.close()
        raise
    return reader


def _by_libav(path: str, error: ValueError) -> Reader:
    """Open a file that libsndfile does not know; raise its error if nothing else does.

    A damaged file stays damaged: FFmpeg reads something from almost any.
    """
    is_foreign = path.lower().endswith(libav.EXTENSIONS)
    if not is_foreign and not any(word in str(error) for word in _UNKNOWN) and not _is_other(path):
        raise error
    if libav.version() is None:
        if is_foreign:
            raise ValueError(
                f"{path}: this format needs the extra av: pip install 'audiocodec[av]'"
            ) from error
        raise error
    try:
        return libav.LibavReader(path)
    except ValueError as second:
        raise (second if is_foreign else error) from error


def _is_other(path: str) -> bool:
    """Return whether a file is an OGG file that libsndfile does not read."""
    with open(path, 'rb') as file:
        start = file.read(64)
    return start.startswith(b'OggS') and any(mark in start for mark in _OTHER)
