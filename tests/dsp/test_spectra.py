import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiocodec.dsp import spectra
from audiocodec.dsp.spectra import MelSpectrogram, power_spectrum, reflect_pad


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_reflect_pad_extends_short_signals_with_zeros():
    assert reflect_pad(torch.tensor([[1.0, 2.0, 3.0]]), 2, 1).tolist() == [
        [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]
    ]
    assert reflect_pad(torch.tensor([[1.0, 2.0]]), 3, 3).tolist() == [
        [0.0, 0.0, 2.0, 1.0, 2.0, 0.0, 0.0, 0.0]
    ]
    assert reflect_pad(torch.tensor([[1.0]]), 0, 0).tolist() == [[1.0]]


@pytest.mark.parametrize('n_fft', [16, 15])
def test_power_spectrum_and_its_gradient(n_fft):
    frames = noise(3, n_fft).double().requires_grad_()
    torch.testing.assert_close(power_spectrum(frames), torch.fft.rfft(frames).abs().square())
    assert torch.autograd.gradcheck(power_spectrum, frames)


@pytest.mark.parametrize('length', [1, 2399, 2400, 2401])
@pytest.mark.parametrize(('n_fft', 'hop_length'), [(1024, 256), (100, 33)])
def test_mel_has_one_frame_per_started_hop(length, n_fft, hop_length):
    mel = MelSpectrogram(24000, n_fft, hop_length, n_mels=8)(noise(2, 3, length))
    assert mel.shape == (2, 3, math.ceil(length / hop_length), 8)


FILTERS = load_file(Path(__file__).parents[1] / 'fixtures' / 'mel_filters.safetensors')


@pytest.mark.parametrize('name', sorted({key.rsplit('.', 1)[0] for key in FILTERS}))
def test_mel_filters_equal_those_of_torchaudio(name):
    """Made by melscale_fbanks of torchaudio 2.11; `name` is the rate, n_fft, n_mels and f_min, all
    else is zero.
    """
    sample_rate, n_fft, n_mels, f_min = map(int, name.split('_'))
    expected = torch.sparse_coo_tensor(
        FILTERS[f'{name}.indices'].long(),
        FILTERS[f'{name}.values'],
        (n_fft // 2 + 1, n_mels),
        check_invariants=True,
    ).to_dense()
    filters = MelSpectrogram(
        sample_rate, n_fft, n_fft // 4, n_mels=n_mels, f_min=float(f_min)
    ).filters
    torch.testing.assert_close(filters, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize('sample_rate', [11025, 16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize('n_fft', [15, 64, 100, 512, 1024, 2048])
@pytest.mark.filterwarnings(
    'ignore:At least one mel filterbank has all zero values'
)  # torchaudio warns about empty bands
def test_mel_filters_equal_torchaudio_bit_for_bit(torchaudio, sample_rate, n_fft):
    for n_mels, f_min in [(1, 0.0), (8, 0.0), (32, 50.0), (64, 64.0), (80, 0.0), (128, 20.0)]:
        peer = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, f_min, sample_rate // 2, n_mels, sample_rate
        )
        assert torch.equal(
            MelSpectrogram(sample_rate, n_fft, 8, n_mels=n_mels, f_min=f_min).filters, peer
        )


def test_empty_mel_bands_are_zero_and_no_warning(recwarn):
    filters = MelSpectrogram(24000, 64, 16, n_mels=64, f_min=64.0).filters
    assert int((filters == 0).all(0).sum()) == 21
    assert not recwarn.list


@pytest.mark.parametrize('normalized', [False, True])
def test_mel_equals_torchaudio_away_from_the_borders(torchaudio, normalized):
    wav = noise(2, 1, 4096)
    ours = MelSpectrogram(24000, 512, 128, 400, n_mels=32, f_min=50.0, normalized=normalized)(wav)
    peer = torchaudio.transforms.MelSpectrogram(
        24000, 512, 400, 128, n_mels=32, f_min=50.0, center=False, normalized=normalized
    )(wav).transpose(-1, -2)
    # The first frame of ours is (512 - 128) / 2 = 1.5 hops early: shift the signal to line the
    # frames up.
    shifted = MelSpectrogram(24000, 512, 128, 400, n_mels=32, f_min=50.0, normalized=normalized)(
        wav[..., 192:]
    )
    assert ours.shape[-2] == 32
    torch.testing.assert_close(shifted[..., 3:20, :], peer[..., 3:20, :], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('frequency', [200.0, 1000.0, 5000.0])
def test_a_tone_is_strongest_in_the_band_around_it(frequency):
    melspec = MelSpectrogram(24000, 2048, 512, n_mels=40, f_min=0.0)
    wav = torch.sin(2 * math.pi * frequency * torch.arange(24000) / 24000)
    band = int(melspec(wav)[10:-10].mean(0).argmax())
    edges = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + 12000 / 700), 42) / 2595) - 1)
    assert edges[band] < frequency < edges[band + 2]


@pytest.mark.parametrize('length', [1, 500, 4000, 4001])
def test_a_spectrogram_in_parts_is_the_whole_one(monkeypatch, length):
    melspec = MelSpectrogram(16000, 256, 64, n_mels=20)
    wav = noise(2, length)
    monkeypatch.setattr(spectra, 'BLOCK', 2 * 256 * 5)  # five frames
    parts = list(melspec.blocks(wav))
    assert len(parts) == -(-length // (5 * 64))
    torch.testing.assert_close(torch.cat(parts, 1), melspec(wav), rtol=1e-5, atol=1e-5)
