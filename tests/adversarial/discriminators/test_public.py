"""Logits, feature maps and gradients compared with descript-audio-codec and Vocos.

The weights are random. The stored values are those of descript-audio-codec 1.0.0 and Vocos 0.1.0.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from audiocodec.adversarial import (
    MultiBandSTFTDiscriminator,
    MultiPeriodDiscriminator,
    MultiResolutionSTFTDiscriminator,
    MultiScaleDiscriminator,
)
from audiocodec.models.formats.common.weight_norm import parametrized_names

STORED = Path(__file__).parents[2] / 'fixtures' / 'discriminators' / 'public.safetensors'
LEAKY = {'activation_params': {'negative_slope': 0.1}}
# Our discriminator, with a single sub-discriminator, and the class of the other library with its
# argument. The length is a multiple of some of the periods and hops.
LENGTH = 2304
LOGITS = {'logits_as_feature': True, 'peak': None}
CASES = {
    'dac_mrd_512': (lambda: MultiBandSTFTDiscriminator(n_ffts=[512], **LOGITS), 'MRD', 512),
    'dac_mrd_1024': (lambda: MultiBandSTFTDiscriminator(n_ffts=[1024], **LOGITS), 'MRD', 1024),
    'dac_mrd_2048': (lambda: MultiBandSTFTDiscriminator(n_ffts=[2048], **LOGITS), 'MRD', 2048),
    'dac_mpd_3': (lambda: dac_mpd(3), 'MPD', 3),
    'dac_mpd_7': (lambda: dac_mpd(7), 'MPD', 7),
    'dac_msd': (
        lambda: MultiScaleDiscriminator(
            scale_norms=['weight_norm'], pad='ConstantPad1d', pad_params={'value': 0.0}, **LEAKY
        ),
        'MSD',
        1,
    ),
    'vocos_mrd_512': (lambda: MultiResolutionSTFTDiscriminator(n_ffts=[512]), 'R', 512),
    'vocos_mrd_2048': (lambda: MultiResolutionSTFTDiscriminator(n_ffts=[2048]), 'R', 2048),
    'vocos_mpd_5': (
        lambda: MultiPeriodDiscriminator(periods=[5], first_feature=1, **LEAKY),
        'P',
        5,
    ),
}
# The other libraries use functions that PyTorch deprecated.
pytestmark = pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning')


def dac_mpd(period):
    return MultiPeriodDiscriminator(periods=[period], always_pad=True, **LEAKY)


def random_state(shapes):
    """Draw the weights of the other library, from a stream that numpy promises to keep."""
    draws = np.random.RandomState(0)
    return {
        name: torch.from_numpy(draws.standard_normal(tuple(shapes[name])).astype(np.float32))
        * (0.1 if name.endswith('bias') else 1.0)
        for name in sorted(shapes)
    }


def public_name(name):
    """Translate a name of ours to that of the other library, which has no norm modules."""
    name = name.removeprefix('discriminators.0.').replace('.conv.', '.')
    name = name.replace('parametrizations.weight.original0', 'weight_g')
    return name.replace('parametrizations.weight.original1', 'weight_v')


def make_case(name):
    """Create our discriminator with random weights; return these with the library's names, too."""
    create, kind, _ = CASES[name]
    discriminator = create()
    theirs = {}
    for key in discriminator.state_dict():
        their_key = public_name(key)
        if kind == 'MSD':
            their_key = their_key.replace('convs.0.1.', 'convs.0.')
        if name.startswith('dac') and 'convs' in their_key:
            their_key = re.sub(r'\.(weight_g|weight_v|bias)$', r'.0.\1', their_key)
        theirs[their_key] = key
    shapes = {their: discriminator.state_dict()[key].shape for their, key in theirs.items()}
    state = random_state(shapes)
    discriminator.load_state_dict({theirs[key]: value for key, value in state.items()})
    return discriminator, state


def audio():
    draws = np.random.RandomState(1)
    return torch.from_numpy(0.1 * draws.standard_normal((2, 1, LENGTH)).astype(np.float32))


def summary(logits, features, gradient):
    """Return tensors small enough to be stored."""
    means = torch.stack([maps.abs().mean() for maps in features])
    return {'logits': logits.flatten()[::7].clone(), 'means': means, 'gradient': gradient[..., ::9]}


def evaluate(discriminator):
    wav = audio().requires_grad_()
    (logits,), (features,) = discriminator(wav)
    loss = logits.square().mean() + sum(maps.abs().mean() for maps in features)
    (gradient,) = torch.autograd.grad(loss, wav)
    return logits, features, gradient


def evaluate_public(name, state):
    """Evaluate the other library's discriminator on the same audio."""
    _, kind, argument = CASES[name]
    if name.startswith('dac'):
        module = pytest.importorskip('dac.model.discriminator')
        discriminator = getattr(module, kind)(argument)
    else:
        module = pytest.importorskip('vocos.discriminators')
        discriminator = getattr(module, f'Discriminator{kind}')(argument)
    missing, unexpected = discriminator.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith('window') for key in missing)
    wav = audio().requires_grad_()
    if name.startswith('dac'):
        features = discriminator(wav)
        logits = features[-1]
    else:
        logits, features = discriminator(wav[:, 0])
    loss = logits.square().mean() + sum(maps.abs().mean() for maps in features)
    (gradient,) = torch.autograd.grad(loss, wav)
    return logits, features, gradient


def assert_near(value, expected):
    assert ((value - expected).norm() / expected.norm()).item() < 2e-5


@pytest.mark.parametrize('name', CASES)
def test_equals_the_public_library(name):
    discriminator, state = make_case(name)
    expected_logits, expected_features, expected_gradient = evaluate_public(name, state)
    logits, features, gradient = evaluate(discriminator)
    assert_near(logits.flatten(), expected_logits.flatten())
    assert len(features) == len(expected_features)
    for maps, expected in zip(features, expected_features):
        assert maps.shape == expected.shape
        assert_near(maps, expected)
    assert_near(gradient, expected_gradient)


@pytest.mark.parametrize('name', CASES)
def test_equals_stored_values(name):
    expected = load_file(STORED)
    discriminator, _ = make_case(name)
    for key, value in summary(*evaluate(discriminator)).items():
        assert_near(value, expected[f'{name}.{key}'])


def test_peak_equals_descript_audio_codec():
    module = pytest.importorskip('dac.model.discriminator')
    public = module.Discriminator(periods=[], fft_sizes=[512])
    discriminator = MultiBandSTFTDiscriminator(n_ffts=[512], logits_as_feature=True)
    state = {
        re.sub(r'(convs\.\d+\.\d+)\.0\.', r'\1.conv.', key).replace(
            'conv_post.', 'conv_post.conv.'
        ): value
        for key, value in public.state_dict().items()
    }
    discriminator.load_state_dict(parametrized_names(state))
    wav = 3 * audio() + 0.2
    (expected,) = public(wav)
    _, (features,) = discriminator(wav)
    for maps, expected_maps in zip(features, expected):
        assert_near(maps, expected_maps)
