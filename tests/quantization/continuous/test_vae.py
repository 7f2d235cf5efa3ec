import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from audiocodec.quantization import VariationalBottleneck


def draw(seed=0, batch=4, frames=30):
    return torch.randn(batch, 6, frames, generator=torch.Generator().manual_seed(seed))


def bottleneck(**kwargs):
    torch.manual_seed(0)
    return VariationalBottleneck(6, **kwargs)


def distribution(vae, latents):
    layer = vae.project_in
    mean, scale = F.conv1d(latents, layer.weight[..., None], layer.bias).chunk(2, 1)
    return Normal(mean, F.softplus(scale) + 1e-4)


def test_the_loss_is_the_divergence_in_nats_per_frame():
    vae = bottleneck(latent_dimension=3)
    expected = kl_divergence(distribution(vae, draw()), Normal(0.0, 1.0)).sum(1).mean()
    for mode in (True, False):
        torch.testing.assert_close(vae.train(mode)(draw(), 75.0).losses['kl'], expected)


def test_latents_are_means_in_eval_mode_and_samples_in_training():
    vae = bottleneck().eval()
    latents = draw(batch=50)
    expected = distribution(vae, latents)
    torch.testing.assert_close(vae(latents, 75.0).latents, expected.mean)
    torch.testing.assert_close(vae.encode_latent(latents), expected.mean)
    sampled = vae.train()(latents, 75.0).latents
    noise = ((sampled - expected.mean) / expected.stddev).detach()
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert noise[0].corrcoef().triu(1).abs().max() < 0.6  # independent channels
    torch.testing.assert_close(vae.encode_latent(latents), expected.mean)


def test_draws_depend_on_seed_update_and_item():
    vae = bottleneck(seed=3).train()
    latents = draw()[:1].expand(4, -1, -1)
    first, second = vae(latents, 75.0).latents, vae(latents, 75.0).latents
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(bottleneck(seed=3).train()(latents, 75.0).latents, first)
    # the state of PyTorch's generator has no effect
    vae = bottleneck(seed=3).train()
    torch.rand(5)
    assert torch.equal(vae(latents, 75.0).latents, first)
    assert not torch.equal(bottleneck(seed=4).train()(latents, 75.0).latents, first)
    # an item's draw does not depend on the size of the batch
    assert torch.equal(bottleneck(seed=3).train()(latents[:2], 75.0).latents, first[:2])


def test_the_gradient_is_that_of_the_reparametrized_sample():
    vae = bottleneck().train()
    latents = draw().requires_grad_()
    sampled = vae(latents, 75.0).latents
    expected = distribution(vae, latents)
    noise = ((sampled - expected.mean) / expected.stddev).detach()
    (grad,) = torch.autograd.grad(sampled.square().sum(), latents)
    wanted = (expected.mean + expected.stddev * noise).square().sum()
    torch.testing.assert_close(grad, torch.autograd.grad(wanted, latents)[0], rtol=1e-4, atol=1e-4)


def test_compact_latents_are_decoded():
    vae = bottleneck(latent_dimension=2).eval()
    stored = vae.encode_latent(draw())
    assert stored.shape == (4, 2, 30)
    assert torch.equal(vae.decode_latent(stored), vae(draw(), 75.0).latents)
    with pytest.raises(ValueError, match=r'expected \[batch, 2, frames\], as returned by'):
        vae.decode_latent(draw())
    with pytest.raises(ValueError, match='latent_dimension=0'):
        bottleneck(latent_dimension=0)
