"""Checkpoints of the authors of WavTokenizer (their code with PyTorch Lightning): reads them."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from audiocodec.models.formats.common.keys import translate
from audiocodec.models.formats.wavtokenizer import CODEBOOK, make_node


def read(weights: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Translate the weights of a checkpoint.

    Sizes are read from the shapes; the other options are constants of that code. Discriminators and
    the unused decoder of EnCodec are left out.

    Args:
        weights: the `state_dict` of the checkpoint, names to tensors.

    Returns:
        The `_target_` node of an `EncodecModel`, and its weights.

    Raises:
        ValueError: not such a checkpoint, or it has several codebooks.
    """
    renamed = {}
    for name, value in weights.items():
        name = name.removeprefix('feature_extractor.encodec.')
        name = re.sub(r'^quantizer\.vq\.(layers\.\d+\.)_codebook\.', r'quantizer.\1codebook.', name)
        name = re.sub(r'^head\.out\.', 'head.linear.', name)
        if re.match(r'(encoder|quantizer|backbone|head\.linear)\.', name):
            renamed[re.sub(r'^backbone\.|^(?=head\.)', 'decoder.', name)] = value
    state = translate(renamed, CODEBOOK)
    try:
        return _node_of_shapes({name: list(value.shape) for name, value in state.items()}), state
    except (KeyError, IndexError) as error:
        raise ValueError(
            f'the weights are not those of a WavTokenizer of its authors: {error} is missing'
        ) from error


def _node_of_shapes(shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    """Return the node of a model, from the shapes of its weights by our names."""
    weight = 'conv.conv.parametrizations.weight.original1'
    convs = {
        int(name.split('.')[2]): shape
        for name, shape in shapes.items()
        if re.fullmatch(rf'encoder\.model\.\d+\.{re.escape(weight)}', name)
    }
    kernels = [convs[index][2] for index in sorted(convs)]
    levels, bins, dimension = shapes['quantizer.codebooks.embed']
    if levels != 1:
        raise ValueError(
            f'the checkpoint has {levels} codebooks: WavTokenizer would not quantize residuals, '
            'so that only 1 is supported'
        )
    encoder = {
        'channels': 1,
        'dimension': dimension,
        'n_filters': convs[0][0],
        'n_residual_layers': 1,
        # first and last convolution have no stride; the others have kernels of two strides
        'ratios': [kernel // 2 for kernel in reversed(kernels[1:-1])],
        'norm': 'weight_norm',
        'pad_mode': 'reflect',
        'true_skip': False,
        'lstm': 2,
    }
    inner, dim = shapes['decoder.convnext.0.pwconv1.weight']
    decoder = {
        'dimension': dimension,
        'dim': dim,
        'intermediate_dim': inner,
        'num_layers': sum(name.endswith('.gamma') for name in shapes),
        'n_fft': shapes['decoder.head.linear.weight'][0] - 2,
        'adanorm_num_embeddings': shapes['decoder.norm.scale.weight'][0],
    }
    return make_node(encoder, decoder, bins, 24000)
