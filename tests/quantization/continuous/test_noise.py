import pytest
import torch

from audiocodec.quantization import NoiseBottleneck


def draw(batch=4):
    return torch.randn(batch, 6, 40, generator=torch.Generator().manual_seed(0))


def test_frames_are_normalized():
    latents = NoiseBottleneck(6).eval()(100 * draw(), 75.0).latents
    torch.testing.assert_close(latents.square().mean(1), torch.ones(4, 40))
    torch.testing.assert_close(
        latents, torch.nn.functional.rms_norm(100 * draw().transpose(1, 2), (6,)).transpose(1, 2)
    )
    assert NoiseBottleneck(6)(torch.zeros(1, 6, 5), 75.0).latents.isfinite().all()


def test_noise_of_a_fixed_size_in_training():
    bottleneck = NoiseBottleneck(6, std=0.3, seed=1)
    latents = draw(batch=60)
    clean = bottleneck.encode_latent(latents)
    assert torch.equal(bottleneck.eval()(latents, 75.0).latents, clean)
    noise = bottleneck.train()(latents, 75.0).latents - clean
    assert noise.std() == pytest.approx(0.3, abs=0.01)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    other = NoiseBottleneck(6, std=0.3, seed=2).train()(latents, 75.0).latents - clean
    assert (other * noise).mean().abs() < 0.003
    assert torch.equal(NoiseBottleneck(6, std=0.0).train()(latents, 75.0).latents, clean)


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match='std=-1'):
        NoiseBottleneck(6, std=-1)
