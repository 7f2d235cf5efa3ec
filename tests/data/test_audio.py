import os

import numpy as np
import pytest
import soundfile
import torch

from audiocodec.data import (
    audio_info,
    convert_audio,
    read_audio,
    read_segment,
    write_audio,
)
from audiocodec.data.audio import read_parts
from audiocodec.dsp.resample import resample


def tones(seconds, sample_rate, channels=1):
    """Return sound that changes all the time, so that a shifted read is noticed."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    phases = [2 * np.pi * (200 + 150 * channel + 300 * time) * time for channel in range(channels)]
    return torch.from_numpy(0.2 * np.sin(np.stack(phases)) * (1 + np.sin(9 * time))).float()


# error of each format, relative to the signal; a shift by one sample would make an error of 0.1
CODECS = {'wav': 1e-4, 'flac': 1e-4, 'ogg': 0.06, 'mp3': 0.01}


@pytest.mark.parametrize('suffix', CODECS)
@pytest.mark.parametrize('channels', [1, 2])
def test_written_file_reads_back(tmp_path, suffix, channels):
    wav = tones(2.0, 24000, channels)
    path = write_audio(tmp_path / 'new' / f'a.{suffix}', wav, 24000)
    read, sample_rate = read_audio(path)
    assert sample_rate == 24000
    assert read.shape == wav.shape
    assert (read - wav).norm() / wav.norm() <= CODECS[suffix]
    info = audio_info(path, check_end=True)
    assert (info.sample_rate, info.frames, info.channels, info.duration) == (
        24000,
        48000,
        channels,
        2.0,
    )
    assert os.listdir(path.parent) == [f'a.{suffix}']


@pytest.mark.parametrize('suffix', CODECS)
def test_seeking_equals_cutting(tmp_path, suffix):
    path = write_audio(tmp_path / f'a.{suffix}', tones(7.3, 22050), 22050)
    whole, _ = read_audio(path)
    for start in [
        0,
        1,
        577,
        22050,
        50_001,
        *range(130_000, whole.shape[-1] - 100, 2500),
        whole.shape[-1] - 1,
    ]:
        part, _ = read_audio(path, start, 4000)
        assert part.shape == whole[:, start : start + 4000].shape
        assert (part - whole[:, start : start + 4000]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ('level', 'mode', 'sample_rate'), [(0.9, 'VARIABLE', 44100), (0.99, 'CONSTANT', 16000)]
)
def test_seeking_in_mp3_of_low_rate(tmp_path, capfd, level, mode, sample_rate):
    noise = (
        0.2
        * np.random.default_rng(0).standard_normal(5 * sample_rate)
        * np.sin(np.arange(5 * sample_rate) / 3000)
    )
    soundfile.write(
        tmp_path / 'a.mp3', noise, sample_rate, compression_level=level, bitrate_mode=mode
    )
    whole, _ = read_audio(tmp_path / 'a.mp3')
    for start in range(1000, 4 * sample_rate, 4321):
        part, _ = read_audio(tmp_path / 'a.mp3', start, 3000)
        assert (part - whole[:, start : start + 3000]).abs().max() < 1e-5
    assert audio_info(tmp_path / 'a.mp3', check_end=True).frames == whole.shape[-1]
    assert capfd.readouterr().err == ''


def test_segment_at_another_rate_equals_converting_the_whole(tmp_path):
    path = write_audio(tmp_path / 'a.flac', tones(3.0, 44100, 2), 44100)
    whole, _ = read_audio(path)
    mono = convert_audio(whole, 44100, 24000, 1)
    assert mono.shape == (1, 72000)
    for start, frames in [(0, 24000), (12345, 24000), (60000, 24000), (71999, 1), (100, -1)]:
        end = None if frames < 0 else start + frames
        torch.testing.assert_close(
            read_segment(path, start, frames, 24000, 1), mono[:, start:end], atol=1e-6, rtol=0
        )
    torch.testing.assert_close(
        read_segment(path, 500, 100, 24000),
        resample(whole, 44100, 24000)[:, 500:600],
        atol=1e-6,
        rtol=0,
    )


def test_a_segment_is_mixed_as_asked(tmp_path):
    wav = tones(1.0, 24000, 2)
    wav[0] *= 2
    path = write_audio(tmp_path / 'a.wav', wav, 24000, 'none')
    for downmix, expected in (('mean', wav.mean(0)), ('left', wav[0]), ('loudest', wav[0])):
        found = read_segment(path, 0, -1, 24000, 1, downmix)
        torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=0)
    many = tmp_path / 'many.wav'
    soundfile.write(many, np.zeros((100, 9)), 24000)
    with pytest.raises(ValueError, match=r'many\.wav: cannot convert 9 channels to 2'):
        read_segment(many, 0, -1, 24000, 2)


def test_unreadable_files_are_named(tmp_path, make_file):
    text = tmp_path / 'text.wav'
    text.write_text('hello')
    (tmp_path / 'empty.mp3').touch()
    make_file(tmp_path / 'none.wav', seconds=0)
    cut = make_file(tmp_path / 'cut.flac', seconds=3)
    cut.write_bytes(cut.read_bytes()[: len(cut.read_bytes()) // 2])
    for name in ('text.wav', 'empty.mp3', 'none.wav', 'cut.flac', 'missing.wav', ''):
        with pytest.raises(ValueError, match=str(tmp_path / name)):
            audio_info(tmp_path / name, check_end=True)
        with pytest.raises(ValueError, match=str(tmp_path / name)):
            read_audio(tmp_path / name)


def test_impossible_sample_rate_is_refused(tmp_path, make_file):
    path = make_file(tmp_path / 'a.wav', sample_rate=48000)
    data = bytearray(path.read_bytes())
    data[24:28] = (2_000_000_000).to_bytes(4, 'little')
    path.write_bytes(data)
    with pytest.raises(ValueError, match='2000000000 Hz'):
        read_audio(path)


def test_start_after_the_end(tmp_path, make_file):
    path = make_file(tmp_path / 'a.wav', seconds=1, sample_rate=16000)
    with pytest.raises(ValueError, match='16000'):
        read_audio(path, 16000, 10)
    with pytest.raises(ValueError, match=r'it is 1\.00 s long'):
        read_segment(path, 24000, 10, 24000)


def test_mp3_without_length_in_its_header_is_measured(tmp_path):
    wav = tones(2.0, 22050)
    path = write_audio(tmp_path / 'a.mp3', wav, 22050)
    data = path.read_bytes()
    head = data.index(b'Xing')
    second = next(
        at for at in range(head + 4, len(data)) if data[at] == 0xFF and data[at + 1] & 0xE0 == 0xE0
    )
    path.write_bytes(data[second:-700])
    whole, _ = read_audio(path)
    assert audio_info(path, check_end=True).frames == whole.shape[-1]
    assert read_segment(path, whole.shape[-1] - 50, 1000, 22050).shape[-1] == 50


def test_writing_refuses(tmp_path):
    wav = torch.zeros(1, 100)
    with pytest.raises(ValueError, match=r'a\.opera.*\.wav, \.flac, \.ogg, \.mp3'):
        write_audio(tmp_path / 'a.opera', wav, 24000)
    with pytest.raises(ValueError, match='NaN or Inf'):
        write_audio(tmp_path / 'a.wav', wav / 0, 24000)
    with pytest.raises(ValueError, match='MP3 does not support 3 channels at 24000 Hz'):
        write_audio(tmp_path / 'a.mp3', wav.repeat(3, 1), 24000)
    with pytest.raises(ValueError, match=r'\[1, 1, 100\]'):
        write_audio(tmp_path / 'a.wav', wav[None], 24000)
    assert os.listdir(tmp_path) == []


def test_writing_clips_and_normalizes(tmp_path):
    loud = 3 * tones(1.0, 16000)
    clipped, _ = read_audio(write_audio(tmp_path / 'a.wav', loud, 16000))
    assert (clipped - loud.clamp(-1, 1)).abs().max() < 1e-4
    peak, _ = read_audio(write_audio(tmp_path / 'b.wav', loud, 16000, 'peak'))
    assert peak.abs().max().item() == pytest.approx(10 ** (-1 / 20), abs=1e-4)


def test_long_ogg_is_written(tmp_path):
    path = write_audio(tmp_path / 'a.ogg', torch.zeros(2, 30 * 44100), 44100)
    assert audio_info(path).frames == 30 * 44100


@pytest.mark.parametrize('suffix', CODECS)
def test_blocks_are_joined(tmp_path, suffix, monkeypatch):
    path = write_audio(tmp_path / f'a.{suffix}', tones(1.0, 24000, 2), 24000)
    whole, _ = read_audio(path)
    part, _ = read_audio(path, 5000, 9000)
    monkeypatch.setattr('audiocodec.data.readers.sndfile._BLOCK', 1000)
    assert torch.equal(read_audio(path)[0], whole)
    assert torch.equal(read_audio(path, 5000, 9000)[0], part)


def test_too_many_channels_are_refused(tmp_path, make_file):
    path = make_file(tmp_path / 'a.wav', 0.1, 16000, channels=65)
    with pytest.raises(
        ValueError, match=r'a\.wav: the header says 65 channels; expected at most 64'
    ):
        read_audio(path)


@pytest.mark.parametrize('suffix', CODECS)
def test_files_are_written_in_folders_whose_names_are_not_text(tmp_path, suffix):
    folder = tmp_path / os.fsdecode(b'caf\xe9\n')
    path = write_audio(folder / f'{os.fsdecode(bytes([0xFF]))}.{suffix}', tones(1.0, 16000), 16000)
    assert os.listdir(os.fsencode(folder)) == [b'\xff.' + suffix.encode()]
    assert read_audio(path)[0].shape == (1, 16000)


@pytest.mark.parametrize('suffix', CODECS)
@pytest.mark.parametrize('left', [0, 8192])
def test_a_full_disk_is_not_blamed_on_the_format(small_disk, suffix, left):
    (small_disk / 'other').write_bytes(bytes(2**21 - 4096 - left))
    with pytest.raises(OSError, match=rf'a\.{suffix}: could not be written \(0\.0 MB free'):
        write_audio(small_disk / f'a.{suffix}', torch.rand(2, 96000) - 0.5, 48000)
    assert os.listdir(small_disk) == ['other']


@pytest.mark.parametrize('rate', [8000, 11025, 24000])
def test_parts_are_the_whole_file(tmp_path, rate):
    path = tmp_path / 'stereo.wav'
    soundfile.write(path, (torch.rand(5000, 2) - 0.5).numpy(), 11025, 'FLOAT')
    parts = list(read_parts(path, 777, rate, 1))
    assert {part.shape[-1] for part in parts[:-1]} == {777}
    whole = read_segment(path, 0, -1, rate, 1)
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole, atol=1e-6, rtol=0)


def test_a_part_may_be_broken(tmp_path):
    path = tmp_path / 'broken.wav'
    wav = torch.rand(5000).numpy()
    wav[3000] = float('nan')
    soundfile.write(path, wav, 8000, 'FLOAT')
    parts = read_parts(path, 1000, 8000)
    assert [next(parts).shape for _ in range(3)] == [(1, 1000)] * 3
    with pytest.raises(ValueError, match=r'broken.wav: contains NaN or Inf'):
        next(parts)
