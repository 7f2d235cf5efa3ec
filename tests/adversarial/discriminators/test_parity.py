"""Logits, feature maps and losses of all discriminators, compared with AudioCraft."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiocodec.adversarial import (
    FeatureMatchingLoss,
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
    get_criterion,
)
from audiocodec.adversarial.discriminators import STFTDiscriminator
from audiocodec.models.formats.common.weight_norm import parametrized_names

PARITY = Path(__file__).parents[2] / 'fixtures' / 'parity'
CLASSES = {
    'msstftd': MultiScaleSTFTDiscriminator,
    'mpd': MultiPeriodDiscriminator,
    'msd': MultiScaleDiscriminator,
}


@pytest.fixture(scope='module')
def parts():
    parts = load_file(PARITY / 'training_parts.safetensors')
    for which in ('estimate', 'reference'):
        # The length given to the discriminators, according to the shapes of their logits.
        parts[which] = parts[which][..., :6000]
    return parts


@pytest.fixture(params=CLASSES)
def case(request, parts):
    name = request.param
    arguments = json.loads((PARITY / 'training_parts.json').read_text())[name]
    discriminator = CLASSES[name](**arguments)
    prefix = f'{name}.state.'
    state = {
        key.removeprefix(prefix): value for key, value in parts.items() if key.startswith(prefix)
    }
    assert any(key.endswith('weight_g') for key in state)
    # Windows of STFTs are not stored in our state.
    stored = {
        key: value for key, value in state.items() if not key.endswith('spec_transform.window')
    }
    discriminator.load_state_dict(parametrized_names(stored))
    expected = {
        key.removeprefix(f'{name}.'): value
        for key, value in parts.items()
        if key.startswith(f'{name}.') and not key.startswith(prefix)
    }
    return discriminator, expected


def relative(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


def test_logits_and_features_equal_audiocraft(case, parts):
    discriminator, expected = case
    assert discriminator.num_discriminators == 2
    for which in ('estimate', 'reference'):
        logits, features = discriminator(parts[which])
        assert len(logits) == len(features) == 2
        for index, logit in enumerate(logits):
            assert logit.shape == expected[f'logits_{which}.{index}'].shape
            assert relative(logit, expected[f'logits_{which}.{index}']) < 1e-4
    for index, maps in enumerate(features):
        means = torch.stack([feature.abs().mean() for feature in maps])
        torch.testing.assert_close(
            means, expected[f'fmap_mean_reference.{index}'], rtol=1e-4, atol=0
        )


@pytest.mark.parametrize('criterion', ['hinge', 'hinge2', 'mse'])
def test_criteria_equal_audiocraft(case, parts, criterion):
    discriminator, expected = case
    criteria = get_criterion(criterion)
    fakes, _ = discriminator(parts['estimate'])
    reals, _ = discriminator(parts['reference'])
    generator_losses = [criteria.generator(fake) for fake in fakes]
    losses = [criteria.fake(fake) + criteria.real(real) for fake, real in zip(fakes, reals)]
    values = torch.stack([torch.stack(generator_losses).mean(), torch.stack(losses).mean()])
    torch.testing.assert_close(values, expected[criterion], rtol=1e-4, atol=1e-7)


def test_feature_matching_equals_audiocraft(case, parts):
    discriminator, expected = case
    loss = FeatureMatchingLoss()
    _, fakes = discriminator(parts['estimate'])
    _, reals = discriminator(parts['reference'])
    value = torch.stack([loss(fake, real) for fake, real in zip(fakes, reals)]).mean()
    torch.testing.assert_close(value[None], expected['feat'], rtol=1e-4, atol=0)


def test_windows_equal_audiocraft(parts):
    stored = parts['msstftd.state.discriminators.0.spec_transform.window']
    window = STFTDiscriminator(4, n_fft=512, hop_length=128, win_length=512).window
    torch.testing.assert_close(window * stored.norm(), stored)
