"""Hash of the weights of a model, which tells models of one name apart."""

import hashlib

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.export.compact import compact_state


def fingerprint(model: CompressionModel) -> str:
    """Return a hash of the weights of a model, 16 hexadecimal digits.

    It is the same for a checkpoint and its exports in float32, but other for the copies of
    `for_inference` and `for_cpu`, whose weights have other names and values.
    """
    digest = hashlib.sha256()
    for name, value in sorted(compact_state(model.state_dict()).items()):
        digest.update(f'{name} {value.dtype} {list(value.shape)}\n'.encode())
        plain = value.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
