import io
import os

import pytest

from audiocodec.data.readers.spliced import Spliced


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(bytes(range(100)))
    with Spliced(str(path), 10, 30, b'prefix') as file:
        yield file


CONTENT = b'prefix' + bytes(range(10, 30))


def test_it_reads_like_a_file_with_that_content(file):
    plain = io.BytesIO(CONTENT)
    for position, count in [(0, 3), (2, 10), (6, 5), (20, 100), (26, 5), (0, 26), (25, 1)]:
        assert file.seek(position) == plain.seek(position)
        assert file.read(count) == plain.read(count)
        assert file.tell() == plain.tell()
    assert file.seek(-2, os.SEEK_END) == 24
    assert file.seek(1, os.SEEK_CUR) == 25
    file.seek(0)
    assert file.read() == CONTENT
    assert file.readable()
    assert file.seekable()


def test_it_is_closed_once(file):
    file.close()
    file.close()
    assert file.closed
