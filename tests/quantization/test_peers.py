"""Codes, latents, gradients and losses of vector-quantize-pytorch, with the same weights.

The fixture was written by `python tests/quantization/test_peers.py`, with version 1.32.0 and random
weights; a test compares it with the installed version.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiocodec.quantization import (
    FiniteScalarQuantizer,
    LookupFreeQuantizer,
    ResidualFiniteScalarQuantizer,
    SimVectorQuantizer,
)
from audiocodec.quantization.gradients import pass_gradient

FIXTURE = Path(__file__).parents[1] / 'fixtures' / 'quantization' / 'vector_quantize.safetensors'
SHAPE = (2, 8, 30)
LEVELS = [8, 5, 4, 3]
RESIDUAL_LEVELS = [5, 4, 3]
BITS = 6


# Of the peer


def peer_values():
    """Run the peer's quantizers; return inputs, weights and results by name."""
    import vector_quantize_pytorch as peer

    torch.manual_seed(0)
    modules = {
        'fsq': peer.FSQ(LEVELS, dim=8, channel_first=True),
        'rfsq': peer.ResidualFSQ(
            levels=RESIDUAL_LEVELS, num_quantizers=3, dim=8, is_channel_first=True
        ),
        'lfq': peer_lfq(peer, False),
        'bsq': peer_lfq(peer, True),
        'simvq': peer.SimVQ(8, 32, channel_first=True, rotation_trick=False),
        'simvq_rotation': peer.SimVQ(8, 32, channel_first=True, rotation_trick=True),
    }
    found = {}
    for name, module in modules.items():
        latents = (2 * torch.randn(SHAPE)).requires_grad_()
        weights = torch.randn(SHAPE)
        loss = torch.zeros(())
        if name in ('lfq', 'bsq'):
            (quantized, codes, _), parts = module(
                latents, inv_temperature=1.0, return_loss_breakdown=True
            )
            loss = parts.per_sample_entropy - parts.batch_entropy + parts.commitment
            found[f'{name}.entropy'] = parts.per_sample_entropy - parts.batch_entropy
            found[f'{name}.commitment'] = parts.commitment
        else:
            quantized, codes, *rest = module(latents)
            if rest:
                loss = found[f'{name}.loss'] = rest[0]
        ((quantized * weights).sum() + loss).backward()
        found |= {
            f'{name}.latents': latents,
            f'{name}.weights': weights,
            f'{name}.quantized': quantized,
            f'{name}.codes': codes,
            f'{name}.grad': latents.grad,
        }
        for key, value in module.named_parameters():
            found |= {f'{name}.state.{key}': value, f'{name}.grad.{key}': value.grad}
        if name.startswith('simvq'):
            found[f'{name}.state.basis'] = module.frozen_codebook
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def peer_lfq(peer, spherical):
    return peer.LFQ(
        dim=8,
        codebook_size=2**BITS,
        channel_first=True,
        spherical=spherical,
        entropy_loss_weight=1.0,
        commitment_loss_weight=1.0,
    )


def test_the_fixture_is_that_of_the_installed_version():
    pytest.importorskip('vector_quantize_pytorch')
    stored = load_file(FIXTURE)
    found = peer_values()
    assert found.keys() == stored.keys()
    for name, value in stored.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


# Of ours


def case(name):
    """Return the stored values of a quantizer, without its name."""
    values = load_file(FIXTURE)
    prefix = f'{name}.'
    return {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}


def run(quantizer, stored, loss=lambda losses: 0):
    """Load the weights, and compare codes, quantized latents and gradients."""
    state = {key[6:]: value for key, value in stored.items() if key.startswith('state.')}
    missing, unexpected = quantizer.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith('statistics') for key in missing)
    latents = stored['latents'].requires_grad_()
    result = quantizer.train()(latents, 75.0)
    assert torch.equal(result.codes, stored['codes'].long())
    torch.testing.assert_close(result.latents, stored['quantized'])
    torch.testing.assert_close(quantizer.decode(result.codes), stored['quantized'])
    ((result.latents * stored['weights']).sum() + loss(result.losses)).backward()
    return result, latents.grad


def as_codebooks(stored):
    """Add the dimension of the codebooks, of which the peer's quantizer has one."""
    return {**stored, 'codes': stored['codes'][:, None]}


def assert_parameter_gradients(quantizer, stored):
    for key, parameter in quantizer.named_parameters():
        torch.testing.assert_close(parameter.grad, stored[f'grad.{key}'], rtol=1e-4, atol=1e-4)


def test_fsq():
    stored = as_codebooks(case('fsq'))
    quantizer = FiniteScalarQuantizer(8, LEVELS)
    _, grad = run(quantizer, stored)
    torch.testing.assert_close(grad, stored['grad'])
    assert_parameter_gradients(quantizer, stored)


def test_residual_fsq():
    stored = case('rfsq')
    _, grad = run(ResidualFiniteScalarQuantizer(8, 3, RESIDUAL_LEVELS), stored)
    # The peer adds up the gradients of all levels: the straight-through gradient, three times,
    # except for levels whose input it clamps.
    ratio = (grad * stored['grad']).sum() / grad.square().sum()
    assert 2 < ratio < 3


@pytest.mark.parametrize('spherical', [False, True])
def test_lookup_free_quantization(spherical):
    stored = as_codebooks(case('bsq' if spherical else 'lfq'))
    quantizer = LookupFreeQuantizer(8, BITS, spherical=spherical, inv_temperature=1.0)
    result, grad = run(quantizer, stored, lambda losses: sum(losses.values()))
    # The peer clamps probabilities at 1e-5 before the logarithm.
    for name in ('entropy', 'commitment'):
        torch.testing.assert_close(result.losses[name], stored[name], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(grad, stored['grad'], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('gradient', ['straight_through', 'rotation'])
def test_simvq(gradient):
    stored = as_codebooks(case('simvq_rotation' if gradient == 'rotation' else 'simvq'))
    stored['state.basis'] = stored['state.basis'][None]
    stored['state.transform'] = stored.pop('state.code_transform.weight')[None]
    quantizer = SimVectorQuantizer(8, 1, 32, gradient=gradient)
    result, grad = run(
        quantizer, stored, lambda losses: losses['codebook'] + 0.25 * losses['commitment']
    )
    loss = result.losses['codebook'] + 0.25 * result.losses['commitment']
    torch.testing.assert_close(loss, stored['loss'])
    torch.testing.assert_close(grad, stored['grad'], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quantizer.transform.grad[0], stored['grad.code_transform.weight'])


def test_rotation_trick():
    module = pytest.importorskip('vector_quantize_pytorch.vector_quantize_pytorch')
    generator = torch.Generator().manual_seed(3)
    latents, quantized, weights = torch.randn(3, *SHAPE, generator=generator).unbind()
    grads = []
    for estimate in (
        lambda x: pass_gradient(quantized, x, 'rotation'),
        lambda x: module.rotate_to(x.transpose(1, 2), quantized.transpose(1, 2)).transpose(1, 2),
    ):
        values = latents.clone().requires_grad_()
        found = estimate(values)
        torch.testing.assert_close(found, quantized)
        (found * weights).sum().backward()
        grads.append(values.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


if __name__ == '__main__':
    FIXTURE.parent.mkdir(parents=True, exist_ok=True)
    save_file(peer_values(), FIXTURE)
