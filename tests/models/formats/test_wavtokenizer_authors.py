import pytest
import torch

from audiocodec.models.formats import wavtokenizer, wavtokenizer_authors
from audiocodec.models.formats.common.keys import make_model
from audiocodec.models.formats.common.weight_norm import hook_names
from audiocodec.utils.config import build

PREFIX = 'feature_extractor.encodec'


@pytest.fixture(scope='module')
def model():
    """A small model with the constants of the authors' code."""
    torch.manual_seed(0)
    encoder = {'channels': 1, 'dimension': 8, 'n_filters': 2, 'n_residual_layers': 1, 'lstm': 2}
    encoder |= {'ratios': [6, 5, 4], 'norm': 'weight_norm', 'true_skip': False}
    decoder = {'dimension': 8, 'dim': 64, 'intermediate_dim': 12, 'num_layers': 3}
    node = wavtokenizer.make_node(encoder, {**decoder, 'adanorm_num_embeddings': 4}, 16, 24000)
    return build(node).eval()


def names_of_the_authors(model):
    """Translate names to those of the authors: the inverse of what is tested."""
    renamed = {
        'head.istft.window': torch.ones(480),
        'dac.discriminators.0.weight': torch.ones(1),
        f'{PREFIX}.decoder.model.0.conv.conv.bias': torch.ones(1),
    }
    for name, value in hook_names(model.state_dict()).items():
        if name.startswith('encoder.'):
            renamed[f'{PREFIX}.{name}'] = value
        elif name.startswith('decoder.'):
            name = name.removeprefix('decoder.').replace('head.linear', 'head.out')
            renamed[name if name.startswith('head.') else f'backbone.{name}'] = value
    for buffer in ('embed', 'embed_avg', 'cluster_size'):
        value = model.quantizer.codebooks.get_buffer(buffer)[0]
        renamed[f'{PREFIX}.quantizer.vq.layers.0._codebook.{buffer}'] = value
    renamed[f'{PREFIX}.quantizer.vq.layers.0._codebook.inited'] = torch.ones(1)
    return renamed


@torch.no_grad()
def test_a_checkpoint_gives_the_same_model(model):
    ours = make_model(*wavtokenizer_authors.read({'state_dict': names_of_the_authors(model)}))
    assert (ours.hop_length, ours.sample_rate, ours.cardinality) == (120, 24000, 16)
    assert ours.decoder.head.n_fft == 480
    wav = 0.3 * torch.randn(2, 1, 999)
    codes, _ = model.encode(wav)
    assert torch.equal(ours.encode(wav)[0], codes)
    assert torch.equal(ours.decode(codes), model.decode(codes))


def test_several_codebooks_are_refused(model):
    weights = names_of_the_authors(model)
    for name, value in list(weights.items()):
        if '.layers.0.' in name:
            weights[name.replace('.layers.0.', '.layers.1.')] = value
    with pytest.raises(ValueError, match='the checkpoint has 2 codebooks'):
        wavtokenizer_authors.read({'state_dict': weights})


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match='not those of a WavTokenizer of its authors'):
        wavtokenizer_authors.read({'state_dict': {'encoder.weight': torch.ones(1)}})
