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
from audiocodec.models.formats.weight_norm import parametrized_names

PARITY = Path(__file__).parents[1] / 'fixtures' / 'parity'
CLASSES = {
    'msstftd': MultiScaleSTFTDiscriminator,
    'mpd': MultiPeriodDiscriminator,
    'msd': MultiScaleDiscriminator,
}
SMALL_STFT = {
    'filters': 4,
    'n_ffts': [256, 128],
    'hop_lengths': [64, 32],
    'win_lengths': [256, 128],
}


@pytest.fixture(scope='module')
def parts():
    parts = load_file(PARITY / 'training_parts.safetensors')
    for which in ('estimate', 'reference'):
        parts[which] = parts[which][
            ..., :6000
        ]  # what the discriminators were given, by the shapes of their logits
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
    # the windows of STFTs are computed here
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
    values = torch.stack(
        [
            torch.stack([criteria.generator(fake) for fake in fakes]).mean(),
            torch.stack(
                [criteria.fake(fake) + criteria.real(real) for fake, real in zip(fakes, reals)]
            ).mean(),
        ]
    )
    torch.testing.assert_close(values, expected[criterion], rtol=1e-4, atol=1e-7)


def test_feature_matching_equals_audiocraft(case, parts):
    discriminator, expected = case
    loss = FeatureMatchingLoss()
    _, fakes = discriminator(parts['estimate'])
    _, reals = discriminator(parts['reference'])
    value = torch.stack([loss(fake, real) for fake, real in zip(fakes, reals)]).mean()
    torch.testing.assert_close(value[None], expected['feat'], rtol=1e-4, atol=0)


def test_windows_of_audiocraft_are_those_computed_here(parts):
    stored = parts['msstftd.state.discriminators.0.spec_transform.window']
    window = STFTDiscriminator(4, n_fft=512, hop_length=128, win_length=512).window
    torch.testing.assert_close(window * stored.norm(), stored)


def test_parameters_of_the_recipe():
    discriminator = MultiScaleSTFTDiscriminator(
        filters=32,
        n_ffts=[1024, 2048, 512, 256, 128],
        hop_lengths=[256, 512, 128, 64, 32],
        win_lengths=[1024, 2048, 512, 256, 128],
        activation_params={'negative_slope': 0.3},
    )
    inner = (
        3 * (32 * 32 * 27 + 2 * 32) + 32 * 32 * 9 + 2 * 32
    )  # weight_norm: direction, magnitude, bias
    assert (
        sum(parameter.numel() for parameter in discriminator.parameters())
        == 5 * (2 * 32 * 27 + 32 + inner + 32 * 9 + 2)
        == 472_330
    )


@pytest.mark.parametrize(
    ('cls', 'arguments'),
    [
        (MultiScaleSTFTDiscriminator, SMALL_STFT),
        (MultiPeriodDiscriminator, {'filters': 2, 'max_filters': 16, 'periods': [2, 5]}),
        (MultiScaleDiscriminator, {'filters': 4, 'max_filters': 16}),
        (MultiScaleDiscriminator, {'filters': 4, 'max_filters': 16, 'norm': 'spectral_norm'}),
        (MultiPeriodDiscriminator, {'filters': 2, 'max_filters': 16, 'norm': 'time_group_norm'}),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_items_of_a_batch_are_judged_alone(cls, arguments):
    arguments = dict(arguments)
    if cls is MultiScaleDiscriminator and 'norm' in arguments:
        arguments['scale_norms'] = [arguments.pop('norm')]
    torch.manual_seed(0)
    discriminator = cls(in_channels=2, **arguments).eval()
    wav = 0.1 * torch.randn(3, 2, 1601)
    together, _ = discriminator(wav)
    for item in range(3):
        alone, _ = discriminator(wav[item : item + 1])
        for logits, logit in zip(together, alone):
            torch.testing.assert_close(logits[item : item + 1], logit, rtol=1e-4, atol=1e-6)


def test_spectrum_is_the_normalised_uncentred_stft_with_parts_as_channels():
    discriminator = STFTDiscriminator(4, in_channels=2, n_fft=64, hop_length=16, win_length=48)
    wav = torch.randn(3, 2, 203)
    spectrum = discriminator.spectrum(wav)
    window = torch.hann_window(48)
    stft = (
        torch.stft(wav.view(6, -1), 64, 16, 48, window, center=False, return_complex=True)
        / window.norm()
    )
    stft = stft.view(3, 2, 33, -1).transpose(2, 3)
    assert spectrum.shape == (3, 4, (203 - 64) // 16 + 1, 33)
    torch.testing.assert_close(spectrum, torch.cat([stft.real, stft.imag], dim=1))
    loud = STFTDiscriminator(
        4, in_channels=2, n_fft=64, hop_length=16, win_length=48, normalized=False
    ).spectrum(wav)
    torch.testing.assert_close(loud, spectrum * window.norm())


@pytest.mark.parametrize('channels', [1, 2])
def test_channels_last_changes_no_value_and_no_gradient(channels):
    outputs = []
    for channels_last in (True, False):
        torch.manual_seed(0)
        discriminator = MultiScaleSTFTDiscriminator(
            in_channels=channels, channels_last=channels_last, **SMALL_STFT
        )
        wav = (0.1 * torch.randn(2, channels, 1000)).requires_grad_()
        logits, features = discriminator(wav)
        layout = discriminator.discriminators[0].spectrum(wav)
        assert layout.is_contiguous(memory_format=torch.channels_last) == channels_last
        gradients = torch.autograd.grad(
            sum(logit.square().mean() for logit in logits), [wav, *discriminator.parameters()]
        )
        outputs.append([*logits, *features[0], *gradients])
    for fast, plain in zip(*outputs):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


def test_sep_channels_judges_each_channel_as_an_item():
    torch.manual_seed(0)
    stereo = MultiScaleSTFTDiscriminator(in_channels=2, sep_channels=True, **SMALL_STFT)
    mono = MultiScaleSTFTDiscriminator(in_channels=1, **SMALL_STFT)
    mono.load_state_dict(stereo.state_dict())
    wav = torch.randn(2, 2, 600)
    for logits, left in zip(stereo(wav)[0], mono(wav[:, :1])[0]):
        assert logits.shape[0] == 4
        torch.testing.assert_close(logits[::2], left)


def test_the_largest_maps_are_made_first_and_given_in_the_order_of_the_scales():
    torch.manual_seed(0)
    n_ffts = [64, 128, 32]
    discriminator = MultiScaleSTFTDiscriminator(
        filters=2, n_ffts=n_ffts, hop_lengths=[16, 32, 8], win_lengths=n_ffts
    )
    wav = torch.randn(2, 1, 1000)
    logits, features = discriminator(wav)
    assert [maps[0].shape[-1] for maps in features] == [33, 65, 17]
    alone = [scale(wav)[0] for scale in discriminator.discriminators]
    sizes = []
    for index, (said, maps) in zip(discriminator.turns, discriminator.verdicts(wav), strict=True):
        torch.testing.assert_close(said, alone[index], rtol=0, atol=0)
        torch.testing.assert_close(logits[index], alone[index], rtol=0, atol=0)
        sizes.append(maps[0].numel())
    assert sizes == sorted(set(sizes), reverse=True)


def test_downsample_halves_the_audio_from_scale_to_scale():
    torch.manual_seed(0)
    wav = torch.randn(1, 1, 4096)
    full = MultiScaleDiscriminator(filters=4, max_filters=16)(wav)[1]
    pooled = MultiScaleDiscriminator(filters=4, max_filters=16, downsample=True)(wav)[1]
    assert [maps[0].shape[-1] for maps in full] == [4096, 4096, 4096]
    assert [maps[0].shape[-1] for maps in pooled] == [4096, 2049, 1025]


def test_negative_slope_below_zero_still_has_gradients():
    discriminator = MultiPeriodDiscriminator(
        filters=2, max_filters=8, periods=[2], activation_params={'negative_slope': -0.1}
    )
    wav = torch.randn(1, 1, 400, requires_grad=True)
    discriminator(wav)[0][0].sum().backward()
    assert wav.grad.abs().sum() > 0


def test_stft_stays_in_float32_under_autocast():
    torch.manual_seed(0)
    discriminator = MultiScaleSTFTDiscriminator(**SMALL_STFT)
    wav = 0.1 * torch.randn(2, 1, 1000)
    plain, _ = discriminator(wav)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert discriminator.discriminators[0].spectrum(wav.bfloat16()).dtype == torch.float32
        logits, features = discriminator(wav)
    assert features[0][0].dtype == torch.bfloat16
    assert relative(logits[0].float(), plain[0].detach()) < 0.05


@pytest.mark.parametrize('cls', CLASSES.values())
def test_wrong_channels_are_refused_by_name(cls):
    with pytest.raises(ValueError, match=r'\[B, 1, T\], got \[1, 2, 4000\]'):
        cls(filters=4, max_filters=8)(torch.zeros(1, 2, 4000))
    with pytest.raises(ValueError, match=r'\[B, 2, T\], got \[2, 4000\]'):
        cls(in_channels=2, filters=4, max_filters=8)(torch.zeros(2, 4000))


@pytest.mark.parametrize(
    ('cls', 'arguments', 'length', 'message'),
    [
        (MultiScaleSTFTDiscriminator, SMALL_STFT, 255, '255 samples .* n_fft=256'),
        (MultiPeriodDiscriminator, {'periods': [2, 11]}, 5, '5 samples .* period=11'),
        (MultiScaleDiscriminator, {}, 7, '7 samples .* at least 8'),
    ],
)
def test_too_short_audio_is_refused_by_name(cls, arguments, length, message):
    discriminator = cls(**{'filters': 4, 'max_filters': 8, **arguments})
    logits, _ = discriminator(torch.randn(1, 1, length + 1))
    assert all(logit.isfinite().all() for logit in logits)
    with pytest.raises(ValueError, match=message):
        discriminator(torch.randn(1, 1, length))


@pytest.mark.parametrize(
    ('cls', 'arguments', 'message'),
    [
        (MultiScaleSTFTDiscriminator, {'n_ffts': [512]}, 'one of each per scale'),
        (
            MultiScaleSTFTDiscriminator,
            {'n_ffts': [], 'hop_lengths': [], 'win_lengths': []},
            'at least one',
        ),
        (
            MultiScaleSTFTDiscriminator,
            {'win_lengths': [2048, 2048, 512]},
            'win_length=2048 .* n_fft=1024',
        ),
        (MultiScaleSTFTDiscriminator, {'kernel_size': [3]}, 'kernel_size=.*two integers'),
        (MultiScaleSTFTDiscriminator, {'filters': 0}, 'filters=0'),
        (MultiScaleSTFTDiscriminator, {'norm': 'layer'}, "norm='layer' is unknown"),
        (MultiScaleSTFTDiscriminator, {'activation': 'Leaky'}, "activation='Leaky'"),
        (MultiPeriodDiscriminator, {'periods': [0]}, 'period=0'),
        (MultiPeriodDiscriminator, {'kernel_sizes': [5]}, 'kernel_sizes=.*expected two'),
        (MultiScaleDiscriminator, {'kernel_sizes': [4, 3]}, 'two odd sizes'),
        (MultiScaleDiscriminator, {'groups': [2]}, 'groups=.*expected 4'),
        (MultiScaleDiscriminator, {'pad': 'Pad'}, "pad='Pad'"),
    ],
)
def test_bad_arguments_are_refused_by_name(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_float64_is_kept():
    discriminator = MultiScaleSTFTDiscriminator(**SMALL_STFT).double()
    wav = torch.randn(1, 1, 400, dtype=torch.float64)
    logits, features = discriminator(wav)
    assert logits[0].dtype == torch.float64
    assert (
        get_criterion('hinge').real(logits[0]).dtype
        == FeatureMatchingLoss()(features[0], features[0]).dtype
    )
    assert get_criterion('hinge').real(logits[0]).dtype == torch.float64
