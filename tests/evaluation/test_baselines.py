import io
import struct

import pytest
import soundfile
import torch
from noise import noise
from speech import speech

from audiocodec.evaluation import AAC, MP3, Opus
from audiocodec.evaluation.baselines import align, ogg_payload
from audiocodec.metrics import SISNR


def renditions(system, wav, rate=24000):
    return list(system.reconstruct(wav, rate))


@pytest.mark.slow
@pytest.mark.parametrize('channels', [1, 2])
def test_opus_has_the_asked_rate_and_improves_with_it(channels):
    wav = speech(5.0, 24000).expand(channels, -1)[None]
    rates = [channels * kbps for kbps in (8.0, 16.0, 32.0)]
    found = renditions(Opus(rates), wav)
    assert [rendition.rate for rendition in found] == rates
    for rendition in found:
        assert rendition.kbps == pytest.approx(rendition.rate, rel=0.15)
        assert rendition.wav.shape == wav.shape
        assert abs(rendition.delay) < 10
    scores = [float(SISNR().score(one.wav[0], wav[0], 24000)) for one in found]
    assert scores == sorted(scores)
    assert scores[-1] > 10


def packets_of(data):
    """Parse the packets of an Ogg file by its pages (RFC 3533)."""
    file, packets, unfinished = io.BytesIO(data), [], b''
    while header := file.read(27):
        assert header[:4] == b'OggS'
        for lace in struct.unpack(f'{header[26]}B', laces := file.read(header[26])):
            assert lace <= 255
        sizes, size = [], 0
        for lace in laces:
            size += lace
            if lace < 255:
                sizes.append(size)
                size = 0
        for length in sizes:
            packets.append(unfinished + file.read(length))
            unfinished = b''
        unfinished += file.read(size)
    return packets


def test_the_payload_is_that_of_the_packets_without_headers():
    file = io.BytesIO()
    wav = noise(48000 * 3, 2).numpy() * 0.1
    soundfile.write(file, wav, 48000, format='OGG', subtype='OPUS', compression_level=0.0)
    packets = packets_of(file.getvalue())
    assert packets[0].startswith(b'OpusHead')
    assert packets[1].startswith(b'OpusTags')
    assert max(map(len, packets)) > 255
    assert ogg_payload(file.getvalue()) == sum(map(len, packets[2:]))


def test_audio_beyond_full_scale_is_clipped_before_opus():
    time = torch.arange(48000) / 48000
    wav = 1.5 * torch.sin(2 * torch.pi * 440 * time)[None, None]
    (rendition,) = renditions(Opus([64]), wav, 48000)
    assert rendition.wav.abs().max() < 1.3


@pytest.mark.parametrize(
    ('system', 'channels', 'message'),
    [
        (
            lambda: MP3([64]),
            3,
            'MP3 takes at most 2 channels, and the audio has 3: leave out --mp3',
        ),
        (
            lambda: AAC([64]),
            6,
            'AAC takes at most 2 channels, and the audio has 6: leave out --aac',
        ),
        (lambda: Opus([64]), 6, 'Opus takes at most 5 channels, and the audio has 6'),
        (lambda: Opus([6, 24]), 2, 'Opus has rates from 12 kbps with 2 channels, not 6: raise'),
        (lambda: Opus([24]), 5, 'Opus has rates from 30 kbps with 5 channels, not 24'),
    ],
)
def test_channels_that_a_codec_cannot_take_are_named(system, channels, message):
    with pytest.raises(ValueError, match=message):
        renditions(system(), torch.zeros(1, channels, 4800))


def test_opus_takes_more_channels_than_two():
    time = torch.arange(24000) / 48000
    tones = [0.3 * torch.sin(2 * torch.pi * (200 + 150 * channel) * time) for channel in range(5)]
    wav = torch.stack(tones)[None]
    (rendition,) = renditions(Opus([200]), wav, 48000)
    noise_power = (rendition.wav - wav)[..., 2400:-2400].square().mean(-1)
    assert (noise_power / wav.square().mean(-1)).max() < 1e-3


@pytest.mark.parametrize('kbps', [32.0, 48.0, 128.0])
def test_mp3_is_aligned_at_every_rate(kbps):
    wav = speech(5.0, 44100)[None]
    (rendition,) = renditions(MP3([kbps]), wav, 44100)
    assert rendition.kbps == pytest.approx(kbps, rel=0.05)
    assert rendition.delay in (0, 1105)
    assert SISNR().score(rendition.wav[0], wav[0], 44100) > 15


@pytest.mark.parametrize('channels', [1, 2])
def test_aac_is_aligned(channels):
    pytest.importorskip('av')
    wav = speech(5.0, 44100).expand(channels, -1)[None]
    (rendition,) = renditions(AAC([64 * channels]), wav, 44100)
    assert rendition.kbps == pytest.approx(64 * channels, rel=0.1)
    assert rendition.delay == 1024
    assert rendition.wav.shape == wav.shape
    assert SISNR().score(rendition.wav[0], wav[0], 44100) > 15


@pytest.mark.parametrize(
    ('system', 'rate'), [(Opus, 5.0), (Opus, 300.0), (MP3, 16.0), (MP3, 400.0)]
)
def test_rates_that_a_codec_does_not_have_are_refused(system, rate):
    with pytest.raises(ValueError, match=rf'{system.name} has rates from .* kbps, not {rate}'):
        system([rate])


@pytest.mark.parametrize('delay', [-30, -1, 0, 7, 40])
def test_align_finds_the_delay(delay):
    reference = noise(2, 1000)
    late = torch.zeros(2, 1100)
    begin = max(0, delay)
    part = reference[:, max(0, -delay) :]
    late[:, begin : begin + part.shape[-1]] = part
    aligned, found = align(late, reference, 50)
    assert found == delay
    assert aligned.shape == reference.shape
    inner = slice(50, 950)
    assert torch.equal(aligned[:, inner], reference[:, inner])


def test_silence_is_not_moved():
    aligned, delay = align(torch.zeros(1, 90), noise(1, 100), 10)
    assert delay == 0
    assert torch.equal(aligned, torch.zeros(1, 100))
