import pytest
import torch

from audiocodec.models.certificate import ways


@pytest.mark.parametrize('cuts', [ways.random_cuts(16000, 3), ways.equal_cuts(7)])
@pytest.mark.parametrize('samples', [1, 7, 40000])
def test_pieces_add_up(cuts, samples):
    sizes = list(cuts(samples))
    assert sum(sizes) == samples
    assert min(sizes) > 0
    assert sizes == list(cuts(samples))  # the same every time


def test_random_pieces_are_short_and_long():
    sizes = list(ways.random_cuts(16000, 0)(100000))
    assert min(sizes) < 20
    assert 2000 < max(sizes) <= 8000


def test_differences_are_found_in_each_way(make_codec):
    """The model changes after its clips were computed."""
    model = make_codec()
    generator = torch.Generator().manual_seed(0)
    wavs = [torch.randn(1, model.channels, size, generator=generator) for size in (900, 1234)]
    clips = [ways.compute_whole(model, wav) for wav in wavs]
    found = {
        'padded': lambda: ways.padded(model, clips),
        'copied': lambda: ways.copied(model, clips, model.for_cpu),
        'streamed': lambda: ways.streamed(model, clips, [ways.equal_cuts(13)]),
        'chunked': lambda: ways.chunked(model, clips, 0.2),
    }
    for name, way in found.items():
        result = way()
        assert result.passed, name
        assert result.codes == sum(clip.codes.numel() for clip in clips), name
        assert result.wav_peak > 0, name
    with torch.no_grad():
        for part in (model.encoder, model.decoder):
            for weight in part.parameters():
                weight.mul_(1.1)
    for name, way in found.items():
        result = way()
        assert result.codes_different > 0, name
        assert not result.codes_equal, name
        assert not result.wav_within(1e-2), name
