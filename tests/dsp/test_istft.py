import pytest
import torch
from torch.nn import functional as F

from audiocodec.dsp.istft import check_istft, istft, overlap_add


def stft(wav, n_fft, hop, padding):
    """STFT [N, T_frames, bins] of [N, T_frames * hop], with zeros around the signal."""
    left = (n_fft - hop) // 2 if padding == 'same' else n_fft // 2
    padded = F.pad(wav, (left, n_fft))
    frames = padded.unfold(-1, n_fft, hop)[:, : wav.shape[-1] // hop]
    return torch.fft.rfft(frames * torch.hann_window(n_fft))


@pytest.mark.parametrize('size', [3, 8, 10, 12, 13])
def test_overlap_add_equals_fold(size):
    frames = torch.randn(2, 5, size)
    length = 4 * 4 + size
    expected = F.fold(
        frames.transpose(1, 2), output_size=(1, length), kernel_size=(1, size), stride=(1, 4)
    )
    torch.testing.assert_close(overlap_add(frames, 4), expected[:, 0, 0])


@pytest.mark.parametrize('padding', ['same', 'center'])
@pytest.mark.parametrize(('n_fft', 'hop'), [(40, 10), (36, 12), (30, 7), (64, 10)])
def test_inverts_the_stft(padding, n_fft, hop):
    wav = torch.randn(2, 20 * hop)
    rebuilt = istft(stft(wav, n_fft, hop, padding), torch.hann_window(n_fft), hop, padding)
    assert rebuilt.shape == wav.shape
    # The envelope of the windows that exist also normalizes the first and the last samples.
    torch.testing.assert_close(rebuilt, wav, rtol=0, atol=1e-5)


def test_center_equals_torch():
    wav = torch.randn(2, 400)
    window = torch.hann_window(40)
    spectrum = torch.stft(wav, 40, 10, window=window, return_complex=True)
    expected = torch.istft(spectrum, 40, 10, window=window)
    ours = istft(spectrum.transpose(1, 2), window, 10, 'center')
    assert ours.shape[-1] == 410  # a hop per frame: torch leaves out the samples of the last one
    torch.testing.assert_close(ours[:, :400], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('padding', ['same', 'center'])
@pytest.mark.parametrize('frames', [1, 2, 3, 17])
def test_a_frame_is_a_hop(padding, frames):
    spectrum = torch.randn(3, frames, 21, dtype=torch.complex64)
    wav = istft(spectrum, torch.hann_window(40), 10, padding)
    assert wav.shape == (3, frames * 10)
    assert wav.isfinite().all()


@pytest.mark.parametrize('padding', ['same', 'center'])
def test_gradient(padding):
    window = torch.hann_window(12, dtype=torch.float64)
    spectrum = torch.randn(1, 3, 7, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: istft(x, window, 4, padding), spectrum)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((40, 10, 'valid'), "padding='valid' is unknown: choose one of same, center"),
        ((41, 10, 'same'), 'n_fft=41: expected an even number of at least 2 . hop_length=10'),
        ((18, 10, 'same'), 'n_fft=18: expected an even number of at least 2 . hop_length=10'),
        ((28, 10, 'center'), 'n_fft=28: expected an even number of at least 3 . hop_length=10'),
    ],
)
def test_sizes_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_istft(*arguments)
