import pytest
from encoders import WILD

from audiocodec.data.readers import mpeg
from audiocodec.data.readers.base import file_key


@pytest.mark.parametrize(
    ('header', 'size', 'samples', 'sample_rate', 'layer'),
    [
        (0xFFFB9000, 417, 1152, 44100, 3),  # MPEG-1, 128 kbps
        (0xFFFB9200, 418, 1152, 44100, 3),  # padded
        (0xFFFBE000, 1044, 1152, 44100, 3),  # 320 kbps
        (0xFFF38400, 192, 576, 24000, 3),  # MPEG-2, 64 kbps
        (0xFFE31800, 72, 576, 8000, 3),  # MPEG-2.5, 8 kbps
        (0xFFFDA400, 576, 1152, 48000, 2),  # layer 2, 192 kbps
        (0xFFFF4800, 192, 384, 32000, 1),  # layer 1, 128 kbps
    ],
)
def test_headers(header, size, samples, sample_rate, layer):
    frame = mpeg.parse(header)
    assert frame is not None
    assert (frame.size, frame.samples, frame.sample_rate, frame.layer) == (
        size,
        samples,
        sample_rate,
        layer,
    )


@pytest.mark.parametrize(
    'header', [0, 0xFFE00000, 0xFFFB0000, 0xFFFBF000, 0xFFFB9C00, 0xFFF99000, 0xFFEB9000]
)
def test_what_is_no_header(header):
    assert mpeg.parse(header) is None


def test_frames_are_counted():
    stream = mpeg.scan(file_key(str(WILD / 'vbr_without_xing.mp3')))
    assert (stream.begin, stream.frames, stream.samples) == (0, 79, 45504)
    assert not stream.has_length
    assert mpeg.scan(file_key(str(WILD / 'layer2.mp2'))).samples == 44928


def write(folder, data):
    path = folder / 'a.mp3'
    path.write_bytes(data)
    return mpeg.scan(file_key(str(path)))


def test_tags_and_damage_are_passed_over(tmp_path):
    data = (WILD / 'vbr_without_xing.mp3').read_bytes()
    tag = b'ID3\x04\x00\x00' + bytes([0, 0, 7, 104]) + bytes(1000)
    assert write(tmp_path, tag + data)[1:3] == (1010, 79)
    assert write(tmp_path, bytes(300) + data)[1:3] == (300, 79)
    damaged = data[:573] + bytes(50) + data[573:]
    assert write(tmp_path, damaged).frames == 79
    assert write(tmp_path, data[:-20]).frames == 78  # the last frame is not complete
    assert write(tmp_path, data + b'TAG' + bytes(125)).frames == 79


@pytest.mark.parametrize('data', [b'', b'\xff', bytes(5000), b'\xff' * 5000, b'text ' * 3000])
def test_other_files_have_no_frames(tmp_path, data):
    assert write(tmp_path, data) is None


def test_a_stored_length_is_noticed(tmp_path):
    data = bytearray((WILD / 'vbr_without_xing.mp3').read_bytes())
    data[13:17] = b'Xing'
    assert write(tmp_path, bytes(data)).has_length


def test_a_file_with_its_length_begins_with_two_more_frames():
    key = file_key(str(WILD / 'vbr_without_xing.mp3'))
    stream = mpeg.scan(key)
    file, left = mpeg.with_length(key, stream)
    with file:
        data = file.read()
    first = mpeg.parse(int.from_bytes(data[:4], 'big'))
    assert (80).to_bytes(4, 'big') in data[: first.size]
    assert data[first.size : first.size + 4] == data[:4]
    assert data[2 * first.size :] == (WILD / 'vbr_without_xing.mp3').read_bytes()
    assert left == 576 - 529


@pytest.mark.parametrize(
    ('sample_rate', 'channels', 'frames'), [(44100, 2, 11), (48000, 1, 10), (24000, 2, 88)]
)
def test_reach_covers_the_reservoir_at_the_lowest_bit_rate(sample_rate, channels, frames):
    samples = 1152 if sample_rate > 30000 else 576
    assert mpeg.reach(sample_rate, channels) == frames * samples
