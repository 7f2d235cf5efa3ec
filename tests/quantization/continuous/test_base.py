import pytest
import torch

from audiocodec.quantization import NoQuantizer


def test_no_quantizer_passes_latents_through():
    quantizer = NoQuantizer(8)
    values = torch.randn(4, 8, 50, requires_grad=True)
    result = quantizer(values, 75.0)
    assert result.latents is values
    assert result.codes.shape == (4, 0, 50)
    assert result.codes.dtype == torch.int64
    assert (result.bandwidth, result.losses) == (0, {})
    assert result.metrics == {}
    assert quantizer.bandwidth(75.0) == 0
    assert quantizer.num_codebooks == quantizer.total_codebooks == quantizer.cardinality == 0
    assert quantizer.dimension == 8
    assert quantizer.encode_latent(values) is values
    assert quantizer.decode_latent(values) is values
    quantizer.set_num_codebooks(0)


def test_no_quantizer_has_no_codes():
    quantizer = NoQuantizer(8)
    for method, argument in [
        (quantizer.encode, torch.zeros(4, 8, 50)),
        (quantizer.decode, torch.zeros(4, 0, 50, dtype=torch.int64)),
        (quantizer.set_num_codebooks, 2),
    ]:
        with pytest.raises(ValueError, match='continuous autoencoder'):
            method(argument)
    with pytest.raises(ValueError, match='dimension=8'):
        quantizer(torch.zeros(4, 7, 50), 75.0)
