import contextlib
import functools
from typing import NamedTuple

import pytest
import torch
import yaml

from audiocodec.data import write_audio
from audiocodec.models import DAC, EncodecModel, InterleaveStereoCompressionModel, Mimi
from audiocodec.models.formats import encodec_package, hub
from audiocodec.models.formats import hf as hf_format
from audiocodec.models.formats.common import keys
from audiocodec.models.formats.common.weight_norm import hook_names
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import ResidualVectorQuantizer
from audiocodec.run import checkpoint
from audiocodec.utils import config
from audiocodec.utils.config import build

# for the tests that use transformers themselves, whatever torchaudio is installed
with contextlib.suppress(ImportError):
    hub.import_transformers()

LEVELS, BINS = 4, 16


def fitted(model):
    """Place the entries of the codebooks near the latents."""
    latents = model.encoder(0.3 * torch.randn(2, model.channels, 50 * model.hop_length))
    books = model.quantizer.codebooks.embed
    books.normal_().mul_(latents.std(dim=(0, 2)))
    books[0] += latents.mean(dim=(0, 2))
    return model


def by_hand(norm='weight_norm', channels=1, **options):
    seanet = {
        'channels': channels,
        'dimension': 6,
        'n_filters': 4,
        'ratios': [4, 2],
        'lstm': 1,
        'norm': norm,
    }
    quantizer = ResidualVectorQuantizer(dimension=6, n_q=LEVELS, bins=BINS, q_dropout=True)
    return fitted(
        EncodecModel(
            SEANetEncoder(**seanet), SEANetDecoder(**seanet), quantizer, 1000, channels, **options
        )
    )


def built():
    seanet = {
        'dimension': 6,
        'n_filters': 4,
        'ratios': [4, 2],
        'lstm': 1,
        'norm': 'weight_norm',
        'causal': True,
    }
    return fitted(
        build(
            {
                '_target_': 'audiocodec.models.EncodecModel',
                'sample_rate': 1000,
                'channels': 1,
                'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **seanet},
                'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', **seanet},
                'quantizer': {
                    '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
                    'dimension': 6,
                    'n_q': LEVELS,
                    'bins': BINS,
                },
            }
        )
    )


def segments(channels=2):
    return by_hand('time_group_norm', channels, renormalize=True, segment_duration=0.05)


def dac():
    import transformers

    return DAC(
        transformers.DacModel(
            transformers.DacConfig(
                encoder_hidden_size=4,
                decoder_hidden_size=64,
                codebook_size=BINS,
                codebook_dim=4,
                downsampling_ratios=[2, 4, 5, 8],
                n_codebooks=LEVELS,
                sampling_rate=24000,
            )
        )
    )


def mimi():
    import transformers

    model = transformers.MimiModel(
        transformers.MimiConfig(
            hidden_size=16,
            num_filters=2,
            codebook_size=BINS,
            codebook_dim=8,
            num_quantizers=LEVELS,
            vector_quantization_hidden_dimension=8,
            upsample_groups=16,
            num_hidden_layers=1,
            intermediate_size=16,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            upsampling_ratios=[4, 3, 2],
        )
    )
    for name, buffer in model.named_buffers():
        if name.endswith('embed_sum'):
            buffer.normal_()
    return Mimi(model)


def hf():
    import transformers

    theirs = transformers.EncodecModel(
        transformers.EncodecConfig(
            num_filters=4,
            hidden_size=8,
            codebook_size=BINS,
            num_lstm_layers=1,
            target_bandwidths=[(LEVELS * 4 * 75 + 0.5) / 1000],
        )
    )
    node = hf_format.model_config(theirs.config.to_dict(), LEVELS)
    return fitted(keys.make_model(node, hf_format.model_state(theirs.state_dict(), node)))


def of_encodec_package():
    """Build a model from weights with the names of the package."""
    seanet = {'dimension': 8, 'n_filters': 2, 'lstm': 2, 'norm': 'weight_norm', 'causal': True}
    quantizer = ResidualVectorQuantizer(dimension=8, n_q=LEVELS, bins=BINS)
    state = EncodecModel(
        SEANetEncoder(**seanet), SEANetDecoder(**seanet), quantizer, 24000, 1
    ).state_dict()
    names = {}
    for name, value in hook_names(state).items():
        head, found, buffer = name.partition('codebooks.')
        if not found:
            names[name] = value
        elif buffer in keys.CODEBOOK_BUFFERS:
            names.update(
                {
                    f'{head}vq.layers.{level}._codebook.{buffer}': row
                    for level, row in enumerate(value)
                }
            )
    return fitted(keys.make_model(*encodec_package.read(names)))


def foreign_parametrization():
    """Build a model with a module that this package did not parametrize."""
    model = by_hand('none')
    torch.nn.utils.parametrizations.orthogonal(model.encoder.model[0].conv.conv)
    return model


# small models of every kind: built by hand, from a configuration, and from other libraries
MAKERS = {
    'weight_norm': by_hand,
    'spectral_norm': functools.partial(by_hand, 'spectral_norm'),
    'foreign parametrization': foreign_parametrization,
    'built': built,
    'segments': segments,
    'stereo': lambda: InterleaveStereoCompressionModel(built()),
    'stereo per timestep': lambda: InterleaveStereoCompressionModel(segments(1), per_timestep=True),
    'for_inference': lambda: built().for_inference(),
    'for_cpu': lambda: built().for_cpu(),
    'dac': dac,
    'mimi': mimi,
    'transformers': hf,
    'encodec package': of_encodec_package,
}


class Form(NamedTuple):
    """A kind of model, and what it is for."""

    name: str

    @property
    def trainable(self):
        return self.name not in ('for_inference', 'for_cpu', 'mimi')

    def make(self):
        """Return the same model each time."""
        torch.manual_seed(0)
        with torch.no_grad():
            return MAKERS[self.name]()


@pytest.fixture(params=MAKERS)
def form(request):
    """Each kind of model in turn."""
    return Form(request.param)


@pytest.fixture
def make():
    """Make a model of a kind given by name."""
    return lambda name: Form(name).make()


@pytest.fixture
def assert_same_codes():
    """Compare codes, which may differ where two entries are equally near: see `check`."""

    def check(model, latents, codes, expected, rounding=1e-5):
        """Compare codes [B, K, T] of latents [B, D, T].

        If latents are off by d, the squared distances to entries a and b change by 2 d.(a - b)
        against each other: the gap between them, divided by 2 |a - b|, is at most |d| where
        rounding alone decides. Codes of later levels follow from another residual: the first level
        that differs is the one to look at."""
        assert codes.shape == expected.shape
        books = model.quantizer.codebooks.embed.double()
        limit = rounding * latents.abs().max().item()
        different = (codes != expected).any(dim=1)
        assert different.float().mean() < 0.05
        for item, frame in different.nonzero().tolist():
            ours, theirs = codes[item, :, frame], expected[item, :, frame]
            level = int((ours != theirs).nonzero()[0])
            residual = latents[item, :, frame].double()
            residual = residual - sum(books[above, ours[above]] for above in range(level))
            near, other = books[level, ours[level]], books[level, theirs[level]]
            gap = (residual - near).square().sum() - (residual - other).square().sum()
            assert gap.abs() / (2 * (near - other).norm()) < limit, (item, frame, level)

    return check


RECIPES = {
    # in small: the causal 24 kHz one, and the stereo 48 kHz one
    'mono': {'causal': True, 'norm': 'weight_norm'},
    'stereo': {'causal': False, 'norm': 'time_group_norm', 'channels': 2},
}


def node(recipe='mono', model=None, quantizer=None, encoder=None, decoder=None, **seanet):
    """Return the configuration of a small model at 8 kHz, 50 frames per second."""
    shared = {
        'channels': 1,
        'dimension': 8,
        'n_filters': 4,
        'n_residual_layers': 1,
        'ratios': [8, 5, 4],
        'lstm': 1,
        'pad_mode': 'constant',
        **RECIPES[recipe],
        **seanet,
    }
    return {
        '_target_': 'audiocodec.models.EncodecModel',
        'sample_rate': 8000,
        'channels': shared['channels'],
        'renormalize': recipe == 'stereo',
        **(model or {}),
        'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **shared, **(encoder or {})},
        'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', **shared, **(decoder or {})},
        'quantizer': {
            '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
            'dimension': 8,
            'n_q': 4,
            'bins': 32,
            'q_dropout': True,
            'kmeans_init': False,
            **(quantizer or {}),
        },
    }


def spread(model):
    """Place the entries of the codebooks near the latents, so that every level matters."""
    torch.manual_seed(1)
    with torch.no_grad():
        latents = model.encoder(0.1 * torch.randn(1, model.channels, 4000))
    books = model.quantizer.codebooks
    for level, book in enumerate(books.embed):
        book.copy_(
            latents.mean(2) * (level == 0) + latents.std() * 0.7**level * torch.randn_like(book)
        )
    books.cluster_size.uniform_(1, 2)
    books.embed_avg.copy_(books.embed * books.cluster_size[..., None])
    return model


@pytest.fixture(scope='session')
def make_codec():
    """Make a small model with random weights; see `node`."""

    def make(*args, **kwargs):
        torch.manual_seed(0)
        return spread(config.build(node(*args, **kwargs)).eval())

    return make


@pytest.fixture(scope='session')
def short_audio(tmp_path_factory):
    """Write half a second of audio, for formats that are slow to trace and run."""
    path = tmp_path_factory.mktemp('audio') / 'short.wav'
    write_audio(path, 0.3 * torch.sin(torch.arange(4001) ** 1.3 / 9)[None], 8000)
    return path


@pytest.fixture(scope='session')
def save_checkpoint():
    """Writes a training checkpoint of a model, with averaged weights, and paths in its
    configuration.
    """

    def save(model, path):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        averages = {name: value for name, value in state.items() if value.is_floating_point()}
        trained = {name: value + 1 if name in averages else value for name, value in state.items()}
        full = {
            'solver': 'compression',
            'sample_rate': 8000,
            'channels': model.channels,
            'model': model.built_from,
            'datasource': {'train': '/secret/place'},
            'dora': {'dir': '/secret/dora'},
            'dataset': {'batch_size': 8, 'segment_duration': 1.0, 'train': {'num_samples': 10}},
            'metrics': {'visqol': {'bin': '/secret/visqol'}},
            'losses': {'l1': {'weight': 1.0}},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(
            {
                'format': checkpoint.CHECKPOINT_FORMAT,
                'version': checkpoint.CHECKPOINT_VERSION,
                'sig': '0a1b2c3d',
                'epoch': 7,
                'config': yaml.safe_dump(full),
                'state': {
                    'model': trained,
                    'ema': {'averages': averages, 'count': 3.0, 'calls': 3},
                    'updates': 3,
                    'adversaries': {'discriminators.msstftd.weight': torch.randn(3)},
                    'optimizer': {
                        'state': {0: {'exp_avg': torch.randn(4)}},
                        'param_groups': [{'lr': 1e-3}],
                    },
                    'balancer': {'norm_l1': torch.ones(())},
                    'history': [{'train': {'l1': 0.5}}],
                },
            },
            path,
        )
        return path

    return save
