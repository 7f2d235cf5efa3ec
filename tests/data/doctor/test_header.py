import struct

import pytest
from audio_files import detail, kinds, noise, write


def test_ogg_that_was_not_written_to_its_end(tmp_path):
    path = tmp_path / 'a.ogg'
    data = (tmp_path / write(path, noise(4.0))).read_bytes()
    for kept in range(len(data) // 2, len(data) // 2 + 3000, 500):
        path.write_bytes(data[:kept] + bytes(len(data) - kept))
        assert kinds(path) == ['truncated']


@pytest.mark.parametrize(
    ('place', 'form', 'value', 'message'),
    [
        (40, '<I', 0, '48000 bytes follow the 0 samples in the header'),
        (40, '<I', 20000, '28000 bytes follow the 10000 samples in the header'),
        (24, '<I', 16000, '16000 Hz with blocks of 2 bytes, but 48000 bytes per second'),
        (22, '<H', 2, '2 channel(s) of 16 bits in blocks of 2 bytes'),
    ],
)
def test_wrong_header(tmp_path, place, form, value, message):
    path = tmp_path / 'a.wav'
    write(path, noise())
    data = bytearray(path.read_bytes())
    assert data[36:40] == b'data'
    data[place : place + struct.calcsize(form)] = struct.pack(form, value)
    path.write_bytes(data)
    assert message in detail(path, 'header')


def test_harmless_headers(tmp_path):
    path = tmp_path / 'a.wav'
    write(path, noise())
    data = path.read_bytes()
    # unknown while the file was written, or including the header
    for size in (0x7FFFFFFF, 0xFFFFFFFF, 48044, 47998):
        path.write_bytes(data[:40] + struct.pack('<I', size) + data[44:])
        assert kinds(path) == []
    path.write_bytes(data + b'LIST' + struct.pack('<I', 9000) + bytes(9000))
    assert kinds(path) == []
