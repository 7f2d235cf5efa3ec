import pytest
import torch

from audiocodec.quantization import SimVectorQuantizer


def draw(seed=0, frames=50):
    return torch.randn(4, 8, frames, generator=torch.Generator().manual_seed(seed))


def quantizer(**kwargs):
    torch.manual_seed(0)
    return SimVectorQuantizer(8, **{'n_q': 3, 'bins': 32, **kwargs}).train()


def test_codes_are_the_nearest_entries_of_the_residual():
    simvq, latents = quantizer(), draw()
    result = simvq(latents, 75.0)
    books = torch.einsum('kbd,ked->kbe', simvq.basis, simvq.transform).detach()
    residual = latents
    errors = []
    for level in range(3):
        distances = (residual[:, None] - books[level][None, :, :, None]).square().sum(2)
        assert torch.equal(distances.argmin(1), result.codes[:, level])
        residual = residual - books[level][result.codes[:, level]].transpose(1, 2)
        errors.append(residual.square().mean())
    torch.testing.assert_close(result.latents, latents - residual)
    for name in ('codebook', 'commitment'):
        torch.testing.assert_close(result.losses[name], sum(errors) / 3)


def test_each_loss_has_its_own_gradient():
    simvq, latents = quantizer(n_q=2), draw().requires_grad_()
    result = simvq(latents, 75.0)
    books = torch.einsum('kbd,ked->kbe', simvq.basis, simvq.transform)
    residual, codebook, commitment = latents, 0, 0
    for level in range(2):
        entries = books[level][result.codes[:, level]].transpose(1, 2)
        codebook = codebook + (entries - residual.detach()).square().mean() / 2
        commitment = commitment + (residual - entries.detach()).square().mean() / 2
        residual = residual - entries.detach()
    inputs = [latents, simvq.transform]
    for loss, expected in [('codebook', codebook), ('commitment', commitment)]:
        ours, theirs = (
            torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
            for value in (result.losses[loss], expected)
        )
        for found, wanted in zip(ours, theirs):
            assert (found is None) == (wanted is None)
            if found is not None:
                torch.testing.assert_close(found, wanted)
    grads = torch.autograd.grad(result.latents.sum(), inputs, allow_unused=True)
    assert torch.equal(grads[0], torch.ones_like(latents))
    assert grads[1] is None


def test_training_the_maps_reduces_the_error_and_moves_every_entry():
    simvq, latents = quantizer(n_q=1), 3 * draw() + 1
    optimizer = torch.optim.Adam(simvq.parameters(), lr=0.02)
    before = torch.einsum('kbd,ked->kbe', simvq.basis, simvq.transform).detach()
    errors = []
    for _ in range(100):
        loss = simvq(latents, 75.0).losses['codebook']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    after = torch.einsum('kbd,ked->kbe', simvq.basis, simvq.transform).detach()
    assert errors[-1] < 0.75 * errors[0]
    assert ((after - before).norm(dim=2) > 0.1).all()


def test_the_basis_depends_on_the_seed_alone():
    assert torch.equal(quantizer().basis, SimVectorQuantizer(8, 3, 32).basis)
    assert not torch.equal(quantizer(seed=1).basis, quantizer().basis)
    assert quantizer(bins=2000).basis.square().mean() == pytest.approx(1 / 8, rel=0.05)
    assert not quantizer().basis.requires_grad


def test_unsuitable_arguments_are_refused():
    for arguments, message in [
        ({'bins': 0}, 'bins=0'),
        ({'n_q': 0}, 'n_q=0'),
        ({'gradient': 'none'}, 'gradient=none: expected one of'),
    ]:
        with pytest.raises(ValueError, match=message):
            SimVectorQuantizer(8, **arguments)
