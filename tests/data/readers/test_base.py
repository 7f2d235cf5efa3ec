import os

import numpy as np
import pytest

from audiocodec.data.readers.base import Reader, file_key


class Silence(Reader):
    path = 'silence'
    frames = 10

    def __init__(self, sample_rate, channels):
        self.sample_rate = sample_rate
        self.channels = channels
        self.closed = False

    def read(self, start, frames):
        return np.zeros((frames, self.channels), np.float32)

    def close(self):
        self.closed = True


def test_headers_that_are_not_credible():
    with Silence(16000, 2) as reader:
        reader.check()
    assert reader.closed
    with pytest.raises(ValueError, match='silence: the header says 5 Hz; expected 1000 to 768000'):
        Silence(5, 1).check()
    for channels in (0, 65):
        with pytest.raises(ValueError, match=f'silence: the header says {channels} channels'):
            Silence(16000, channels).check()


def test_a_key_changes_with_the_file(tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(b'one')
    first = file_key(str(path))
    assert first == file_key(str(path))
    path.write_bytes(b'more')
    second = file_key(str(path))
    os.utime(path, (1, 1))
    assert len({first, second, file_key(str(path))}) == 3
