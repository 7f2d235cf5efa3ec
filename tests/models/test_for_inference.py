import pytest
import torch

from audiocodec.models import EncodecModel
from audiocodec.models.stereo import InterleaveStereoCompressionModel
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import NoQuantizer, ResidualVectorQuantizer


def make_model(norm='weight_norm', quantizer=None, causal=False):
    torch.manual_seed(0)
    options = {
        'dimension': 6,
        'n_filters': 4,
        'n_residual_layers': 1,
        'ratios': [4, 2],
        'lstm': 1,
        'norm': norm,
        'causal': causal,
    }
    quantizer = quantizer or ResidualVectorQuantizer(dimension=6, n_q=3, bins=8, kmeans_init=False)
    return EncodecModel(SEANetEncoder(**options), SEANetDecoder(**options), quantizer, 1000, 1)


@pytest.mark.parametrize('norm', ['none', 'weight_norm', 'spectral_norm', 'time_group_norm'])
def test_it_computes_the_same_from_plain_weights(norm):
    model = make_model(norm)
    made = model.for_inference()
    wav = torch.randn(2, 1, 333)
    expected, out = model.eval()(wav), made(wav)
    assert torch.equal(out.codes, expected.codes)
    torch.testing.assert_close(out.wav, expected.wav, rtol=0, atol=1e-5)
    assert not [name for name in made.state_dict() if 'parametrizations' in name]
    assert [name for name in made.state_dict() if 'quantizer' in name] == [
        'quantizer.codebooks.embed'
    ]
    assert not made.training
    assert not any(parameter.requires_grad for parameter in made.parameters())
    codes, _ = made.encode(wav)
    assert torch.equal(codes, expected.codes)
    torch.testing.assert_close(made.decode(codes)[..., :333], expected.wav, rtol=0, atol=1e-5)


def test_the_model_stays_as_it_was():
    model = make_model().train()
    model.set_num_codebooks(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = model.for_inference()
    assert made.num_codebooks == 2
    assert model.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    out = model(torch.randn(2, 1, 64))
    (out.wav.square().mean() + out.losses['commitment']).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.for_inference()  # and again


def test_a_copy_of_a_copy():
    made = make_model().for_inference()
    wav = torch.randn(1, 1, 100)
    assert torch.equal(made.for_inference()(wav).wav, made(wav).wav)


def test_it_cannot_be_trained():
    made = make_model().for_inference().train()
    with pytest.raises(
        ValueError, match=r'train the original model, not the copy that for_inference\(\)'
    ):
        made(torch.randn(2, 1, 64))


def test_models_without_codebooks_or_around_others():
    wav = torch.randn(1, 1, 100)
    model = make_model(quantizer=NoQuantizer(6)).eval()
    torch.testing.assert_close(model.for_inference()(wav).wav, model(wav).wav, rtol=0, atol=1e-5)
    model = InterleaveStereoCompressionModel(make_model().eval()).eval()
    made = model.for_inference()
    wav = torch.randn(1, 2, 100)
    assert torch.equal(made.encode(wav)[0], model.encode(wav)[0])
    assert made.model.quantizer.codebooks.embed_avg is None
