import pytest
import torch

from audiocodec.models import EncodecModel
from audiocodec.models.segments import Segments
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import ResidualVectorQuantizer


@pytest.mark.parametrize(
    ('length', 'overlap', 'hop'),
    [
        (480, 0.01, 32),
        (480, 0.0, 32),
        (100, 0.1, 7),
        (33, 0.5, 4),
        (50, 0.8, 3),
        (5, 0.9, 8),
        (1, 0.0, 1),
    ],
)
def test_frames_of_all_segments_tell_those_of_each(length, overlap, hop):
    segments = Segments(length, overlap, hop)
    for samples in range(1, 4 * length + 10):
        cut = segments.cut(torch.zeros(2, samples))
        sizes = [-(-part.shape[-1] // hop) for part in cut]
        assert segments.frames(samples) == sizes
        assert segments.split(sum(sizes)) == sizes


def test_one_second_is_cut_as_by_the_48khz_model():
    segments = Segments(48000, 0.01, 320)
    assert segments.stride == 47520
    assert segments.frames(47520) == [149]
    assert segments.frames(47521) == [149, 1]
    assert segments.frames(48000) == [150, 2]
    assert segments.frames(10 * 48000) == [150] * 10 + [15]


def test_sums_of_frames_that_no_waveform_has_are_divided_too():
    segments = Segments(96, 1 / 3, 32)  # the sample after 64 starts a frame and a segment
    possible = {sum(segments.frames(samples)) for samples in range(1, 2000)}
    assert 3 not in possible
    for frames in range(1, 50):
        sizes = segments.split(frames)
        assert sum(sizes) == frames
        assert min(sizes) >= 1
        assert max(sizes) <= 3


@pytest.mark.parametrize('samples', [5, 90, 95, 101, 355])
@pytest.mark.parametrize('overlap', [0.0, 0.1, 0.5, 0.7])
def test_joining_inverts_cutting(samples, overlap):
    segments = Segments(100, overlap, 1)
    wav = torch.randn(2, 3, samples)
    torch.testing.assert_close(segments.join(segments.cut(wav)), wav)


def test_one_segment_fades_into_the_next():
    segments = Segments(99, 0.2, 1)
    joined = segments.join([torch.zeros(99), torch.ones(99)])
    assert joined.shape == (79 + 99,)
    assert torch.equal(joined[:79], torch.zeros(79))
    assert torch.equal(joined[99:], torch.ones(79))
    # linear: the weights at distance d from the ends of both are d and 21 - d of the 20 samples
    # that overlap
    torch.testing.assert_close(joined[79:99], torch.arange(1, 21) / 21)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((0, 0.1, 2), 'a segment of 0 samples'),
        ((10, 1.0, 2), 'overlap=1.0: expected'),
        ((10, -0.1, 2), 'overlap=-0.1'),
    ],
)
def test_invalid_segments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Segments(*arguments)


def make_model(causal=False, **options):
    torch.manual_seed(0)
    seanet = {
        'channels': 2,
        'dimension': 6,
        'n_filters': 4,
        'n_residual_layers': 1,
        'ratios': [4, 2],
        'causal': causal,
    }
    return EncodecModel(
        SEANetEncoder(**seanet),
        SEANetDecoder(**seanet),
        ResidualVectorQuantizer(dimension=6, n_q=3, bins=16, kmeans_init=False),
        sample_rate=1000,
        channels=2,
        **options,
    )


@torch.no_grad()
def test_every_segment_is_encoded_on_its_own():
    model = make_model(renormalize=True, segment_duration=0.1, overlap=0.05).eval()
    alone = make_model(renormalize=True).eval()
    wav = torch.randn(3, 2, 333) * torch.linspace(0.1, 1, 333)
    codes, scale = model.encode(wav)
    parts = [
        alone.encode(part)
        for part in (wav[..., :100], wav[..., 95:195], wav[..., 190:290], wav[..., 285:])
    ]
    assert torch.equal(codes, torch.cat([codes for codes, _ in parts], dim=-1))
    torch.testing.assert_close(scale, torch.cat([scale for _, scale in parts], dim=1))
    wav_hat = model.decode(codes, scale)
    assert wav_hat.shape == (3, 2, 285 + 6 * 8)
    torch.testing.assert_close(wav_hat[..., :95], alone.decode(*parts[0])[..., :95])
    torch.testing.assert_close(wav_hat[..., 104:190], alone.decode(*parts[1])[..., 9:95])
    out = model(wav)
    assert torch.equal(out.codes, codes)
    assert torch.equal(out.scale, scale)
    torch.testing.assert_close(out.wav, wav_hat[..., :333])
    torch.testing.assert_close(out.latents, model.decode_latent(codes))


def test_training_takes_items_whole():
    model = make_model(renormalize=True, segment_duration=0.1).train()
    wav = torch.randn(2, 2, 256)
    out = model(wav)
    assert out.codes.shape == (2, 3, 32)
    assert out.scale.shape == (2, 1)
    out.wav.square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    codes, scale = model.encode(wav)
    assert codes.shape == (
        2,
        3,
        13 + 13 + 8,
    )  # 100 + 100 samples from 99 on, and what is left from 198 on
    assert scale.shape == (2, 3)
    assert model.decode(codes, scale).shape == (2, 2, 2 * 99 + 64)


def test_a_scale_for_every_segment():
    model = make_model(renormalize=True, segment_duration=0.1)
    codes, scale = model.encode(torch.randn(2, 2, 256))
    with pytest.raises(
        ValueError, match=r'scale has shape \[2, 1\]: expected \[2, 3\], one per segment'
    ):
        model.decode(codes, scale[:, :1])


def test_a_causal_model_may_renormalize_its_segments():
    model = make_model(causal=True, renormalize=True, segment_duration=0.1).eval()
    wav = torch.randn(1, 2, 256)
    assert model(wav).scale.shape == (1, 3)
    with pytest.raises(ValueError, match='renormalize=True needs the loudness'):
        make_model(causal=True, renormalize=True)
