import pytest
import torch
import yaml

from audiocodec.data import write_audio
from audiocodec.utils import checkpoint, config

RECIPES = {
    # in small: the causal 24 kHz one, and the stereo 48 kHz one
    'mono': {'causal': True, 'norm': 'weight_norm'},
    'stereo': {'causal': False, 'norm': 'time_group_norm', 'channels': 2},
}


def node(recipe='mono', model=None, quantizer=None, encoder=None, decoder=None, **seanet):
    """The configuration of a small model at 8 kHz, 50 frames a second."""
    shared = {'channels': 1, 'dimension': 8, 'n_filters': 4, 'n_residual_layers': 1, 'ratios': [8, 5, 4], 'lstm': 1,
              'pad_mode': 'constant', **RECIPES[recipe], **seanet}
    return {
        '_target_': 'audiocodec.models.EncodecModel', 'sample_rate': 8000, 'channels': shared['channels'],
        'renormalize': recipe == 'stereo', **(model or {}),
        'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **shared, **(encoder or {})},
        'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', **shared, **(decoder or {})},
        'quantizer': {'_target_': 'audiocodec.quantization.ResidualVectorQuantizer', 'dimension': 8, 'n_q': 4,
                      'bins': 32, 'q_dropout': True, 'kmeans_init': False, **(quantizer or {})},
    }


def spread(model):
    """Put the entries of the codebooks where the latents are, so that every level matters."""
    torch.manual_seed(1)
    with torch.no_grad():
        latents = model.encoder(0.1 * torch.randn(1, model.channels, 4000))
    books = model.quantizer.codebooks
    for level, book in enumerate(books.embed):
        book.copy_(latents.mean(2) * (level == 0) + latents.std() * 0.7 ** level * torch.randn_like(book))
    books.cluster_size.uniform_(1, 2)
    books.embed_avg.copy_(books.embed * books.cluster_size[..., None])
    return model


@pytest.fixture(scope='session')
def make_codec():
    """Makes a small model with random weights; see `node`."""
    def make(*args, **kwargs):
        torch.manual_seed(0)
        return spread(config.build(node(*args, **kwargs)).eval())

    return make


@pytest.fixture(scope='session')
def short_audio(tmp_path_factory):
    """A file with half a second of sound, for formats that take long to trace and run."""
    path = tmp_path_factory.mktemp('audio') / 'short.wav'
    write_audio(path, 0.3 * torch.sin(torch.arange(4001) ** 1.3 / 9)[None], 8000)
    return path


@pytest.fixture(scope='session')
def save_checkpoint():
    """Writes a training checkpoint of a model, with averaged weights, and paths in its configuration."""
    def save(model, path):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        averages = {name: value for name, value in state.items() if value.is_floating_point()}
        trained = {name: value + 1 if name in averages else value for name, value in state.items()}
        full = {'solver': 'compression', 'sample_rate': 8000, 'channels': model.channels, 'model': model.built_from,
                'datasource': {'train': '/secret/place'}, 'dora': {'dir': '/secret/dora'},
                'dataset': {'batch_size': 8, 'segment_duration': 1.0, 'train': {'num_samples': 10}},
                'metrics': {'visqol': {'bin': '/secret/visqol'}}, 'losses': {'l1': {'weight': 1.0}}}
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save({
            'format': checkpoint.CHECKPOINT_FORMAT, 'version': checkpoint.CHECKPOINT_VERSION,
            'sig': '0a1b2c3d', 'epoch': 7,
            'config': yaml.safe_dump(full),
            'state': {'model': trained, 'ema': {'averages': averages, 'count': 3., 'calls': 3}, 'updates': 3,
                      'adversaries': {'discriminators.msstftd.weight': torch.randn(3)},
                      'optimizer': {'state': {0: {'exp_avg': torch.randn(4)}}, 'param_groups': [{'lr': 1e-3}]},
                      'balancer': {'norm_l1': torch.ones(())}, 'history': [{'train': {'l1': 0.5}}]},
        }, path)
        return path

    return save
