import pytest
import torch

from audiocodec.quantization import ResidualFiniteScalarQuantizer


def bounded(latents, levels):
    limit = (1 + 1 / (torch.tensor(levels) - 1.0))[:, None]
    return torch.tanh(latents / limit) * limit


def draw(dimension, seed=0, batch=4, frames=50):
    return torch.randn(batch, dimension, frames, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('levels', [[5, 3], [4, 2], [17, 9]])
def test_each_codebook_divides_the_cells_of_the_previous_ones_exactly(levels):
    quantizer = ResidualFiniteScalarQuantizer(2, 4, levels).eval()
    latents = 3 * draw(2)
    number = torch.tensor(levels, dtype=torch.float32)[:, None]
    for n in range(1, 5):
        quantizer.set_num_codebooks(n)
        error = (quantizer(latents, 75.0).latents - bounded(latents, levels)).abs()
        half_cell = number ** -(n - 1) / (number - 1)
        assert (error <= half_cell * (1 + 1e-4) + 1e-6).all()
        assert (error.amax((0, 2)) > 0.8 * half_cell[:, 0]).all()


def test_all_codes_are_a_uniform_grid():
    quantizer = ResidualFiniteScalarQuantizer(1, 3, [3])
    codes = torch.cartesian_prod(*[torch.arange(3)] * 3).t()[None]
    values = quantizer.decode(codes)[0, 0].sort().values
    # 27 cells of equal width divide [-1.5, 1.5]
    torch.testing.assert_close(values, (torch.arange(27) + 0.5) / 9 - 1.5)


def test_the_gradient_does_not_depend_on_the_number_of_codebooks():
    grads = []
    for n_q in (1, 4):
        latents = draw(2).requires_grad_()
        quantizer = ResidualFiniteScalarQuantizer(2, n_q, [5, 4])
        quantizer(latents, 75.0).latents.sum().backward()
        grads.append(latents.grad)
    values = draw(2).requires_grad_()
    bounded(values, [5, 4]).sum().backward()
    for grad in grads:
        torch.testing.assert_close(grad, values.grad)


def test_dither_replaces_the_rounding_of_some_items():
    levels = [5, 4]
    latents = draw(2, batch=200, frames=20)
    plain = ResidualFiniteScalarQuantizer(2, 2, levels).train()(latents, 75.0)
    quantizer = ResidualFiniteScalarQuantizer(2, 2, levels, dither=0.25).train()
    result = quantizer(latents, 75.0)
    assert torch.equal(result.codes, plain.codes)
    noisy = (result.latents != plain.latents).flatten(1).any(1)
    assert 30 < noisy.sum() < 70
    number = torch.tensor(levels)[:, None]
    noise = (result.latents - bounded(latents, levels))[noisy] * number * (number - 1)
    assert noise.abs().max() <= 1 + 1e-5
    assert noise.abs().mean() == pytest.approx(0.5, abs=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    again = quantizer(latents, 75.0).latents
    assert not torch.equal(again, result.latents)
    other = ResidualFiniteScalarQuantizer(2, 2, levels, dither=0.25, seed=1).train()
    assert not torch.equal(other(latents, 75.0).latents, result.latents)
    assert torch.equal(quantizer.eval()(latents, 75.0).latents, plain.latents)
    every = ResidualFiniteScalarQuantizer(2, 2, levels, dither=1.0).train()(latents, 75.0)
    assert (every.latents != plain.latents).flatten(1).any(1).all()


def test_unsuitable_arguments_are_refused():
    for arguments, message in [
        ({'dither': 1.5}, r'dither=1.5: expected a fraction of the items, in \[0, 1\]'),
        ({'n_q': 0}, 'n_q=0'),
        ({'levels': [1]}, r'levels=\[1\]'),
    ]:
        with pytest.raises(ValueError, match=message):
            ResidualFiniteScalarQuantizer(8, **arguments)
