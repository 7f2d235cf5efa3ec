import pytest
import torch

from audiocodec.dsp.sisnr import overlapping_segments, si_snr


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def orthogonal_noise(reference, db, seed=1):
    """Noise orthogonal to the (centered) reference, `db` below it in energy."""
    extra = noise(*reference.shape, seed=seed)
    extra = extra - extra.mean(-1, keepdim=True)
    extra = (
        extra
        - (extra * reference).sum(-1, keepdim=True)
        / reference.square().sum(-1, keepdim=True)
        * reference
    )
    return (
        extra
        * (reference.norm(dim=-1, keepdim=True) / extra.norm(dim=-1, keepdim=True))
        * 10 ** (-db / 20)
    )


def centered_noise(*shape):
    wav = noise(*shape)
    return wav - wav.mean(-1, keepdim=True)


@pytest.mark.parametrize('db', [-5.0, 0.0, 10.0, 40.0])
def test_si_snr_of_orthogonal_noise_is_its_level(db):
    reference = centered_noise(2, 1, 8000)
    measured = si_snr(reference + orthogonal_noise(reference, db), reference)
    assert measured.shape == (2,)
    assert measured.tolist() == pytest.approx([db, db], abs=1e-2)


@pytest.mark.parametrize('gain', [0.1, 3.0, -1.0])
def test_si_snr_ignores_gain_and_offset(gain):
    reference = centered_noise(1, 1, 8000)
    estimate = reference + orthogonal_noise(reference, 10.0)
    assert si_snr(gain * estimate + 0.3, reference).item() == pytest.approx(10.0, abs=1e-2)


def test_si_snr_is_a_mean_in_db_over_segments_channels_and_not_items():
    reference = centered_noise(2, 2, 1000)
    levels = torch.tensor([[[0.0], [10.0]], [[20.0], [30.0]]])
    estimate = reference + orthogonal_noise(reference, levels)
    measured = si_snr(
        torch.cat([estimate, estimate], -1),
        torch.cat([reference, reference], -1),
        1000,
        overlap=0.0,
    )
    assert measured.tolist() == pytest.approx([5.0, 25.0], abs=1e-2)


def test_si_snr_of_silence_is_finite():
    silence, wav = torch.zeros(1, 1, 1000), noise(1, 1, 1000)
    assert si_snr(silence, silence).item() == 0
    assert si_snr(silence, wav).item() == 0
    assert -100 < si_snr(wav, silence).item() < 0
    assert si_snr(wav, wav).item() > 60


@pytest.mark.parametrize(('length', 'expected'), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (20, 5)])
def test_segments_start_every_stride_and_end_in_zeros(length, expected):
    wav = torch.arange(1.0, length + 1)[None]
    segments = overlapping_segments(wav, 8, 4)
    assert segments.shape == (1, expected, 8)
    padded = torch.cat([wav[0], torch.zeros(8)])
    for i in range(expected):
        assert torch.equal(segments[0, i], padded[4 * i : 4 * i + 8])


def test_segments_without_overlap_skip_what_is_between():
    assert overlapping_segments(torch.arange(10.0), 2, 5).tolist() == [[0.0, 1.0], [5.0, 6.0]]
