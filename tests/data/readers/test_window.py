import pytest
import torch

from audiocodec.data import audio_info, read_audio, read_segment
from audiocodec.data.readers.window import Place, file_of, find_part, name_part


def test_names():
    assert name_part('a.wav', 1.5, 3) == 'a.wav#t=1.5,3'
    assert name_part('a.wav', 0.1 + 0.2, 1e-3 + 7) == 'a.wav#t=0.3,7.001'
    assert find_part('b/a.wav#t=1.5,3') == Place('b/a.wav', 1.5, 3.0)
    for name in ('a.wav', 'a.wav#t=1', 'a.wav#t=x,y', '#t=1,2', 'a#t=1,2.wav'):
        assert find_part(name) == Place(name)
    assert file_of('a.wav#t=1,2') == 'a.wav'


def test_a_file_may_be_called_like_a_part(tmp_path, make_file):
    path = make_file(tmp_path / 'a.wav#t=1,2', 0.5, 16000, format='WAV')
    assert find_part(str(path)) == Place(str(path))
    assert audio_info(path).frames == 8000


@pytest.mark.parametrize('suffix', ['wav', 'mp3', 'ogg'])
def test_a_part_is_a_slice(tmp_path, make_file, suffix):
    path = make_file(tmp_path / f'a.{suffix}', 4.0, 16000)
    whole, _ = read_audio(path)
    part = f'{path}#t=1.25,2.5'
    found, _ = read_audio(part)
    torch.testing.assert_close(found, whole[:, 20000:40000], atol=1e-6, rtol=0)
    torch.testing.assert_close(read_audio(part, 500, 100)[0], found[:, 500:600], atol=1e-6, rtol=0)
    assert read_segment(part, 19000, 5000, 16000).shape == (1, 1000)
    assert audio_info(part, check_end=True).frames == 20000


def test_parts_beyond_the_end(tmp_path, make_file):
    path = make_file(tmp_path / 'a.wav', 2.0, 16000)
    assert audio_info(f'{path}#t=1,2.01', check_end=True).frames == 16000  # rounded
    with pytest.raises(ValueError, match=r'a\.wav#t=1,3: is truncated'):
        audio_info(f'{path}#t=1,3', check_end=True)
    with pytest.raises(ValueError, match=r'a\.wav#t=2,3: its file is 2\.00 s long'):
        read_audio(f'{path}#t=2,3')
