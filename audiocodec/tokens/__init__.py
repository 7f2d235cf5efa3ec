"""Tokens for language models: data sets encoded by a codec, and arrangements of their codes."""

from audiocodec.tokens.dataset import TokenDataset, TokenItem
from audiocodec.tokens.make import Report, make_tokens
from audiocodec.tokens.patterns import delay, flatten, undelay, unflatten

__all__ = [
    'Report',
    'TokenDataset',
    'TokenItem',
    'delay',
    'flatten',
    'make_tokens',
    'undelay',
    'unflatten',
]
