import contextlib
import functools
from typing import NamedTuple

import pytest
import torch

from audiocodec.models import (
    DAC,
    EncodecModel,
    InterleaveStereoCompressionModel,
    Mimi,
    encodec_package,
    hf_encodec,
    hub,
    weights,
)
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import ResidualVectorQuantizer
from audiocodec.utils.config import build
from audiocodec.utils.weight_norm import hook_names

# for the tests that use transformers themselves, whatever torchaudio is installed
with contextlib.suppress(ImportError):
    hub.import_transformers()

LEVELS, BINS = 4, 16


def fitted(model):
    """Give the codebooks entries where the latents are."""
    latents = model.encoder(0.3 * torch.randn(2, model.channels, 50 * model.hop_length))
    books = model.quantizer.codebooks.embed
    books.normal_().mul_(latents.std(dim=(0, 2)))
    books[0] += latents.mean(dim=(0, 2))
    return model


def by_hand(norm='weight_norm', channels=1, **options):
    seanet = {'channels': channels, 'dimension': 6, 'n_filters': 4, 'ratios': [4, 2], 'lstm': 1, 'norm': norm}
    quantizer = ResidualVectorQuantizer(dimension=6, n_q=LEVELS, bins=BINS, q_dropout=True)
    return fitted(EncodecModel(SEANetEncoder(**seanet), SEANetDecoder(**seanet), quantizer, 1000, channels, **options))


def built():
    seanet = {'dimension': 6, 'n_filters': 4, 'ratios': [4, 2], 'lstm': 1, 'norm': 'weight_norm', 'causal': True}
    return fitted(build({
        '_target_': 'audiocodec.models.EncodecModel', 'sample_rate': 1000, 'channels': 1,
        'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **seanet},
        'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', **seanet},
        'quantizer': {'_target_': 'audiocodec.quantization.ResidualVectorQuantizer', 'dimension': 6,
                      'n_q': LEVELS, 'bins': BINS}}))


def segments(channels=2):
    return by_hand('time_group_norm', channels, renormalize=True, segment_duration=0.05)


def dac():
    import transformers

    return DAC(transformers.DacModel(transformers.DacConfig(
        encoder_hidden_size=4, decoder_hidden_size=64, codebook_size=BINS, codebook_dim=4,
        downsampling_ratios=[2, 4, 5, 8], n_codebooks=LEVELS, sampling_rate=24000)))


def mimi():
    import transformers

    model = transformers.MimiModel(transformers.MimiConfig(
        hidden_size=16, num_filters=2, codebook_size=BINS, codebook_dim=8, num_quantizers=LEVELS,
        vector_quantization_hidden_dimension=8, upsample_groups=16, num_hidden_layers=1, intermediate_size=16,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, upsampling_ratios=[4, 3, 2]))
    for name, buffer in model.named_buffers():
        if name.endswith('embed_sum'):
            buffer.normal_()
    return Mimi(model)


def hf():
    import transformers

    theirs = transformers.EncodecModel(transformers.EncodecConfig(
        num_filters=4, hidden_size=8, codebook_size=BINS, num_lstm_layers=1,
        target_bandwidths=[(LEVELS * 4 * 75 + 0.5) / 1000]))
    node = hf_encodec.model_config(theirs.config.to_dict(), LEVELS)
    return fitted(weights.make_model(node, hf_encodec.model_state(theirs.state_dict(), node)))


def of_encodec_package():
    """From weights under the names of the package."""
    seanet = {'dimension': 8, 'n_filters': 2, 'lstm': 2, 'norm': 'weight_norm', 'causal': True}
    quantizer = ResidualVectorQuantizer(dimension=8, n_q=LEVELS, bins=BINS)
    state = EncodecModel(SEANetEncoder(**seanet), SEANetDecoder(**seanet), quantizer, 24000, 1).state_dict()
    names = {}
    for name, value in hook_names(state).items():
        head, found, buffer = name.partition('codebooks.')
        if not found:
            names[name] = value
        elif buffer in weights.CODEBOOK_BUFFERS:
            names.update({f'{head}vq.layers.{level}._codebook.{buffer}': row for level, row in enumerate(value)})
    return fitted(weights.make_model(*encodec_package.read(names)))


def foreign_parametrization():
    """Of a module that this package did not parametrize."""
    model = by_hand('none')
    torch.nn.utils.parametrizations.orthogonal(model.encoder.model[0].conv.conv)
    return model


# small models of every kind: put together by hand, from a configuration, and from other libraries
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
        """The same model each time."""
        torch.manual_seed(0)
        with torch.no_grad():
            return MAKERS[self.name]()


@pytest.fixture(params=MAKERS)
def form(request):
    """Every kind of model, one after the other."""
    return Form(request.param)


@pytest.fixture
def make():
    """Make a model of a kind given by name."""
    return lambda name: Form(name).make()


@pytest.fixture
def assert_same_codes():
    """Codes are equal, but where two entries are equally near: see `check`."""

    def check(model, latents, codes, expected, rounding=1e-5):
        """Compare codes [B, K, T] of latents [B, D, T].

        If latents are off by d, the squared distances to entries a and b change by 2 d.(a - b) against each other: the
        gap between them, divided by 2 |a - b|, is at most |d| where rounding alone decides. Codes of later levels
        follow from another residual: the first level that differs is the one to look at.
        """
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
