"""Tiny speech models of `transformers` with random weights."""

import torch

from audiocodec.utils.errors import import_transformers

OPTIONS = {
    'hidden_size': 16,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 16,
    'conv_dim': (8, 8),
    'conv_kernel': (10, 40),
    'conv_stride': (8, 40),
    'num_feat_extract_layers': 2,
    'num_conv_pos_embeddings': 8,
    'num_conv_pos_embedding_groups': 2,
}


def save_teacher(folder, kind='WavLM', **options):
    """Save a model with 320 samples per frame, as in WavLM, into a new folder; return the model."""
    transformers = import_transformers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = getattr(transformers, f'{kind}Config')(**{**OPTIONS, **options})
        model = getattr(transformers, f'{kind}Model')(config).eval()
    model.save_pretrained(folder)
    return model
