import torch
from torch.nn import functional as F

from audiocodec.quantization import ResidualFiniteScalarQuantizer, SimVectorQuantizer
from audiocodec.quantization.discrete import Projection, projections


def test_projection_is_a_convolution_of_one_frame():
    torch.manual_seed(0)
    layer = Projection(6, 3)
    latents = torch.randn(2, 6, 5)
    expected = F.conv1d(latents, layer.weight[..., None], layer.bias)
    torch.testing.assert_close(layer(latents), expected)
    layer.bias = None
    expected = F.conv1d(latents, layer.weight[..., None])
    torch.testing.assert_close(layer(latents), expected)
    assert layer(latents[:0]).shape == (0, 3, 5)


def test_equal_dimensions_need_no_projection():
    inward, outward = projections(4, 4)
    latents = torch.randn(2, 4, 5)
    assert outward(inward(latents)) is latents
    inward, outward = projections(4, 2)
    assert outward(inward(latents)).shape == latents.shape


def test_dropout_draws_every_number_of_codebooks_equally_often():
    quantizer = ResidualFiniteScalarQuantizer(1, 4, [2], q_dropout=True).train()
    latents = torch.zeros(1, 1, 2)
    results = [quantizer(latents, 75.0) for _ in range(400)]
    drawn = torch.tensor([result.codes.shape[1] for result in results])
    counts = drawn.bincount(minlength=5)
    assert counts[0] == 0
    assert ((counts[1:] - 100).square() / 100).sum() < 16.3  # 3 degrees of freedom, 0.1 %
    quantizer.set_num_codebooks(2)
    assert {quantizer(latents, 75.0).codes.shape[1] for _ in range(20)} == {1, 2}
    quantizer.eval()
    assert quantizer(latents, 75.0).codes.shape[1] == 2


def test_the_number_of_codebooks_can_be_adapted():
    torch.manual_seed(0)
    whole = SimVectorQuantizer(4, n_q=3, bins=8).eval()
    whole.statistics.add(torch.zeros(1, 3, 5, dtype=torch.int64))
    latents = torch.randn(2, 4, 5)
    codes = whole.encode(latents)
    fewer = SimVectorQuantizer(4, n_q=2, bins=8, seed=1).eval()
    fewer.load_state_dict(fewer.adapted_state(whole.state_dict()))
    assert torch.equal(fewer.encode(latents), codes[:, :2])
    assert fewer.statistics.count() == 1
    more = SimVectorQuantizer(4, n_q=4, bins=8, seed=1).eval()
    last = more.basis[3].clone()
    more.load_state_dict(more.adapted_state(whole.state_dict()))
    assert torch.equal(more.encode(latents)[:, :3], codes)
    assert torch.equal(more.basis[3], last)
