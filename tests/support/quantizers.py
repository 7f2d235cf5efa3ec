"""One small case of every quantizer, for tests that hold for all of them."""

from functools import partial

import torch

from audiocodec.quantization import (
    DACQuantizer,
    FiniteScalarQuantizer,
    GroupedQuantizer,
    LookupFreeQuantizer,
    NoiseBottleneck,
    NoQuantizer,
    ResidualFiniteScalarQuantizer,
    ResidualVectorQuantizer,
    SimVectorQuantizer,
    SplitResidualVectorQuantizer,
    VariationalBottleneck,
)

DIMENSION = 8
RVQ = {'n_q': 3, 'bins': 8, 'kmeans_iters': 3, 'decay': 0.8}
DISCRETE = {
    'rvq': partial(ResidualVectorQuantizer, q_dropout=True, **RVQ),
    'rvq_rotation': partial(ResidualVectorQuantizer, gradient='rotation', **RVQ),
    'fsq': partial(FiniteScalarQuantizer, levels=[8, 5, 2]),
    'fsq_no_projection': partial(FiniteScalarQuantizer, levels=[2, 3, 4, 5, 6, 7, 8, 9]),
    'rfsq': partial(
        ResidualFiniteScalarQuantizer, n_q=3, levels=[5, 4, 2], q_dropout=True, dither=0.5, seed=2
    ),
    'lfq': partial(LookupFreeQuantizer, bits=5, entropy_bits=3, inv_temperature=1.0),
    'bsq': partial(LookupFreeQuantizer, bits=DIMENSION, spherical=True, inv_temperature=5.0),
    'simvq': partial(SimVectorQuantizer, n_q=3, bins=16, q_dropout=True, seed=1),
    'simvq_rotation': partial(SimVectorQuantizer, n_q=2, bins=16, gradient='rotation'),
    'split_rvq': partial(
        SplitResidualVectorQuantizer, codebook_dimension=6, no_quantization_rate=0.5, seed=5, **RVQ
    ),
    'dac': partial(DACQuantizer, n_q=3, bins=16, codebook_dim=4, q_dropout=0.5),
    'grouped_rvq': partial(
        GroupedQuantizer, groups=2, quantizer=partial(ResidualVectorQuantizer, **RVQ)
    ),
    'grouped_rfsq': partial(
        GroupedQuantizer,
        groups=2,
        quantizer=partial(
            ResidualFiniteScalarQuantizer, n_q=3, levels=[3, 5], q_dropout=True, dither=0.5
        ),
    ),
}
CONTINUOUS = {
    'none': NoQuantizer,
    'vae': partial(VariationalBottleneck, latent_dimension=3, seed=4),
    'vae_full': VariationalBottleneck,
    'noise': partial(NoiseBottleneck, std=0.3),
    'noise_compact': partial(NoiseBottleneck, latent_dimension=3),
}
ALL = {**DISCRETE, **CONTINUOUS}


def make(name):
    """Return a case in training mode, with the same weights every time."""
    torch.manual_seed(0)
    return ALL[name](dimension=DIMENSION).train()


def latents(seed=0, batch=4, frames=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, DIMENSION, frames, generator=generator)


def train(quantizer, first, last, rows=slice(None), average=None):
    """Make the updates first..last - 1 with plain gradient descent; return their results."""
    results = []
    for update in range(first, last):
        values = latents(seed=update)[rows].clone().requires_grad_()
        result = quantizer(values, 75.0)
        loss = (result.latents - values.detach().flip(1)).square().mean()
        loss = loss + sum(result.losses.values())
        quantizer.zero_grad()
        loss.backward()
        if average is not None:
            average(quantizer.parameters())
        with torch.no_grad():
            for parameter in quantizer.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        results.append((result, values.grad))
    return results
