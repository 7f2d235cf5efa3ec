"""White noise, and noisy copies of it with a known SNR."""

import torch


def noise(*shape, seed=0):
    """Return white noise of unit power."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noisy(db, *shape):
    """Return an estimate with an SNR of about `db`, and its reference."""
    reference = noise(*shape)
    return reference + 10 ** (-db / 20) * noise(*shape, seed=1), reference
