import shutil

import numpy as np
import pytest
import soundfile
import torch
from encoders import WILD, assert_segments, encode, sweep

from audiocodec.data import audio_info, read_audio
from audiocodec.data.readers import libav, open_audio


@pytest.fixture(autouse=True)
def without_libav(monkeypatch):
    """What libsndfile reads needs no other library."""
    monkeypatch.setattr(libav, 'version', lambda: None)


def read(path, start, frames):
    return read_audio(path, start, frames)[0]


@pytest.mark.parametrize(
    ('name', 'frames'),
    [
        ('vbr_without_xing.mp3', 45504),
        ('piped.flac', 44100),
        ('chained.ogg', 88200),
        ('layer2.mp2', 44928),
    ],
)
def test_files_as_encoders_write_them(name, frames):
    whole, rate = read_audio(WILD / name)
    assert (rate, whole.shape) == (22050, (1, frames))
    assert audio_info(WILD / name, check_end=True).frames == frames
    assert_segments(WILD / name, whole, read, 1.2e-7)


@pytest.mark.parametrize('name', ['vbr_without_xing.mp3', 'layer2.mp2'])
def test_mpeg_decodes_as_with_another_decoder(name):
    av = pytest.importorskip('av')
    with av.open(str(WILD / name)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    other = np.concatenate(frames, -1)[0]
    other = other / 2**15 if other.dtype == np.int16 else other
    # rounded to 16 bits by one of them
    np.testing.assert_allclose(read_audio(WILD / name)[0][0].numpy(), other, atol=4e-5)


def test_both_parts_of_a_chained_file_are_the_same_recording():
    whole, _ = read_audio(WILD / 'chained.ogg')
    torch.testing.assert_close(whole[:, :44100], whole[:, 44100:])


def test_streams_that_differ_are_not_joined(tmp_path):
    for name, rate in (('a.ogg', 16000), ('b.ogg', 24000)):
        soundfile.write(tmp_path / name, sweep(1.0, rate), rate)
    with open(tmp_path / 'both.ogg', 'wb') as file:
        for name in ('a.ogg', 'b.ogg'):
            file.write((tmp_path / name).read_bytes())
    with pytest.raises(ValueError, match=r'both\.ogg: is chained of streams that differ: 16000 Hz'):
        read_audio(tmp_path / 'both.ogg')


@pytest.mark.parametrize('channels', [1, 2])
@pytest.mark.parametrize('seconds', [0.3, 14.0])
@pytest.mark.parametrize('subtype', ['VORBIS', 'OPUS'])
def test_chained_files(tmp_path, channels, seconds, subtype):
    parts = []
    for number, length in enumerate((seconds, 1.1, 0.5)):
        path = tmp_path / f'{number}.ogg'
        wav = np.roll(sweep(length, 24000, channels), 7 * number, axis=0)
        soundfile.write(path, wav, 24000, subtype=subtype)
        parts.append(path)
    chained = tmp_path / 'chained.ogg'
    chained.write_bytes(b''.join(path.read_bytes() for path in parts))
    whole, _ = read_audio(chained)
    assert torch.equal(whole, torch.cat([read_audio(path)[0] for path in parts], 1))
    if subtype == 'VORBIS':
        assert_segments(chained, whole, read, tries=8)


@pytest.mark.slow
@pytest.mark.parametrize('sample_rate', [8000, 24000, 44100])
@pytest.mark.parametrize('channels', [1, 2])
@pytest.mark.parametrize('quality', [None, 0, 7])
@pytest.mark.parametrize('xing', [0, 1])
def test_mp3_of_any_kind(tmp_path, sample_rate, channels, quality, xing):
    pytest.importorskip('av')
    wav = sweep(6.0, sample_rate, channels)
    wav[: len(wav) // 3] *= 0.001  # a variable bit rate varies
    path = tmp_path / 'a.mp3'
    vbr = {'flags': '+qscale', 'global_quality': str(118 * (quality or 0))}
    coding = vbr if quality is not None else {'b': '64000'}
    encode(path, wav, sample_rate, 'libmp3lame', coding=coding, write_xing=xing)
    whole, _ = read_audio(path)
    assert abs(whole.shape[-1] - len(wav)) < 4000
    assert audio_info(path, check_end=True).frames == whole.shape[-1]
    assert_segments(path, whole, read, 1.2e-7, tries=8)
    correlation = np.correlate(whole[0, -20000:-8000], wav[-20000:-8000, 0][1500:-1500])
    assert correlation.max() > 0.9 * (wav[-20000:-8000, 0][1500:-1500] ** 2).sum()


@pytest.mark.parametrize('name', ['a.mp3', 'b.wav'])
def test_mp3_in_a_wav(tmp_path, name):
    pytest.importorskip('av')
    path = tmp_path / name
    encode(path, sweep(5.0, 22050), 22050, 'libmp3lame')
    whole, _ = read_audio(path)
    assert whole.shape[-1] > 5 * 22050 - 10
    assert audio_info(path, check_end=True).frames == whole.shape[-1]
    assert_segments(path, whole, read, 1.2e-7, tries=8)


@pytest.mark.parametrize('suffix', ['caf', 'au', 'w64', 'rf64', 'aifc', 'wave', 'snd', 'bwf'])
def test_other_suffixes(tmp_path, suffix):
    wav = sweep(1.0, 16000, 2)
    known = {'caf': 'CAF', 'au': 'AU', 'w64': 'W64', 'rf64': 'RF64', 'aifc': 'AIFF', 'snd': 'AU'}
    soundfile.write(tmp_path / f'a.{suffix}', wav, 16000, format=known.get(suffix, 'WAV'))
    whole, _ = read_audio(tmp_path / f'a.{suffix}')
    np.testing.assert_allclose(whole.numpy().T, wav, atol=1e-4)
    assert_segments(tmp_path / f'a.{suffix}', whole, read, tries=5)


def test_tags_before_an_mp3_are_skipped(tmp_path):
    data = (WILD / 'vbr_without_xing.mp3').read_bytes()
    tag = b'ID3\x04\x00\x00' + bytes([0, 0, 7, 104]) + bytes(1000)
    (tmp_path / 'a.mp3').write_bytes(tag + data)
    tagged, _ = read_audio(tmp_path / 'a.mp3')
    assert torch.equal(tagged, read_audio(WILD / 'vbr_without_xing.mp3')[0])


def test_reading_on_does_not_seek(tmp_path):
    shutil.copy(WILD / 'vbr_without_xing.mp3', tmp_path / 'a.mp3')
    with open_audio(tmp_path / 'a.mp3') as reader:
        parts = [reader.read(start, 5000) for start in range(0, reader.frames, 5000)]
    whole, _ = read_audio(tmp_path / 'a.mp3')
    np.testing.assert_array_equal(np.concatenate(parts).T, whole.numpy())


def test_voc_of_several_blocks_is_not_read_wrongly(tmp_path):
    pytest.importorskip('av')
    wav = sweep(1.0, 16000)
    path = encode(tmp_path / 'a.voc', wav, 16000, 'pcm_s16le')
    with pytest.raises(ValueError, match=r'a\.voc: VOC of several blocks is unsupported'):
        read_audio(path)
    soundfile.write(tmp_path / 'b.voc', wav, 16000)
    np.testing.assert_allclose(read_audio(tmp_path / 'b.voc')[0].numpy().T, wav, atol=1e-4)


def test_surround_has_the_order_of_wav_files(tmp_path):
    """The order of Vorbis is: front left, center, front right, back left, back right, low."""
    levels = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], np.float32)
    tone = np.sin(np.arange(24000) * 0.05).astype(np.float32)[:, None]
    in_vorbis_order = levels[[0, 2, 1, 4, 5, 3]] * tone
    soundfile.write(tmp_path / 'a.ogg', in_vorbis_order, 24000)
    found, _ = read_audio(tmp_path / 'a.ogg')
    powers = found[:, 2000:-2000].square().mean(1).sqrt() * 2**0.5
    np.testing.assert_allclose(powers.numpy(), levels, atol=0.04)
