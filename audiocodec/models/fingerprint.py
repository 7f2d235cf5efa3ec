"""Hash of the weights of a model, which tells models of one name apart."""

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """Return a hash of names and values of the state of a model, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
