import pytest
import torch

from audiocodec.models.certificate.comparison import Comparison, encode_with_latents


@pytest.fixture
def encoded(make_codec):
    model = make_codec()
    wav = torch.randn(1, model.channels, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    latents, codes, _ = encode_with_latents(model, wav)
    return model, latents, codes


def test_equal_codes_and_waveforms(encoded):
    model, latents, codes = encoded
    comparison = Comparison()
    comparison.add_codes(model, latents, codes, codes.clone())
    comparison.add_wavs(torch.tensor([0.5, -2.0]), torch.tensor([0.5, -2.0]))
    assert comparison.codes_equal
    assert comparison.wav_within(0.0)
    assert comparison.wav_peak == 2.0
    assert comparison.describe_codes() == f'{codes.numel()} of {codes.numel()} equal'


def test_a_tie_does_not_excuse_an_earlier_difference(encoded):
    model, latents, codes = encoded
    wrong = codes.clone()
    wrong[0, 0, 0] = (wrong[0, 0, 0] + 1) % model.cardinality
    comparison = Comparison()
    comparison.add_codes(model, None, codes, wrong)  # without latents, nothing proves a tie
    assert not comparison.codes_equal
    comparison.add_codes(model, latents, codes, codes)
    assert not comparison.codes_equal
    assert comparison.codes_different == 1
    assert 'NOT all ties' in comparison.describe_codes()


def test_differences_are_relative_to_the_peak():
    comparison = Comparison()
    comparison.add_wavs(torch.tensor([0.5]), torch.tensor([0.5 + 2**-12]))
    assert comparison.wav_difference == 2**-12
    assert not comparison.wav_within(2**-12)
    assert comparison.wav_within(2**-11)
    assert comparison.wav_within(2**-12, full_scale=1.0)


@pytest.mark.parametrize('found', [torch.tensor([torch.nan]), torch.zeros(2)])
def test_nan_and_other_shapes_are_never_within(found):
    comparison = Comparison()
    comparison.add_wavs(torch.ones(1), found)
    comparison.add_wavs(torch.ones(1), torch.ones(1))
    assert not comparison.wav_within(1.0)
