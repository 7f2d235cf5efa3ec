import pytest
import torch

from audiocodec.data.channels import convert_channels

HALF = 0.5**0.5


def test_mono_and_stereo():
    stereo = torch.randn(4, 2, 10)
    torch.testing.assert_close(convert_channels(stereo, 1), (stereo[:, :1] + stereo[:, 1:]) / 2)
    mono = torch.randn(1, 10)
    assert torch.equal(convert_channels(mono, 2), torch.cat([mono, mono]))
    assert convert_channels(stereo, 2) is stereo


def test_ways_to_mix_to_mono():
    wav = torch.randn(3, 2, 50)
    wav[0, 1] *= 5
    wav[1:, 0] *= 5
    assert torch.equal(convert_channels(wav, 1, 'left'), wav[:, :1])
    loudest = convert_channels(wav, 1, 'loudest')
    assert loudest.shape == (3, 1, 50)
    assert torch.equal(loudest[0, 0], wav[0, 1])
    assert torch.equal(loudest[1:, 0], wav[1:, 0])
    assert torch.equal(convert_channels(wav[0], 1, 'loudest'), wav[0, 1:])
    with pytest.raises(ValueError, match="downmix 'right': expected one of mean, left, loudest"):
        convert_channels(wav, 1, 'right')


@pytest.mark.parametrize(
    ('channel', 'left', 'right'),
    [(0, 1, 0), (1, 0, 1), (2, HALF, HALF), (3, 0, 0), (4, HALF, 0), (5, 0, HALF)],
)
def test_surround_is_mixed_as_itu_r_bs_775_says(channel, left, right):
    wav = torch.zeros(6, 4)
    wav[channel] = 1
    expected = torch.tensor([left, right])[:, None] / (1 + 2 * HALF)
    torch.testing.assert_close(convert_channels(wav, 2), expected.expand(2, 4))


@pytest.mark.parametrize('channels', [3, 4, 5, 6, 7, 8])
def test_surround_does_not_clip_and_is_symmetric(channels):
    mixed = convert_channels(torch.ones(channels, 3), 2)
    torch.testing.assert_close(mixed, torch.ones(2, 3))


@pytest.mark.parametrize(('current', 'channels'), [(9, 2), (2, 3), (6, 4)])
def test_other_conversions_are_refused(current, channels):
    with pytest.raises(ValueError, match=f'cannot convert {current} channels to {channels}'):
        convert_channels(torch.randn(current, 10), channels)
