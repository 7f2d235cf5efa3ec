import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiocodec.losses import SISNR, MelSpectrogramL1Loss, MRSTFTLoss, MultiScaleMelSpectrogramLoss

PARITY = Path(__file__).parents[1] / 'fixtures' / 'parity'
LOSSES = {
    'mel': MelSpectrogramL1Loss,
    'msspec': MultiScaleMelSpectrogramLoss,
    'msspec_alphas': MultiScaleMelSpectrogramLoss,
    'mrstft': MRSTFTLoss,
    'sisnr': SISNR,
}


@pytest.fixture(scope='module')
def parts():
    return load_file(PARITY / 'training_parts.safetensors')


def tone(frequency, sample_rate=24000, seconds=0.5, amplitude=0.5):
    time = torch.arange(int(seconds * sample_rate)) / sample_rate
    return amplitude * torch.sin(2 * math.pi * frequency * time)[None, None]


def value_and_grad(loss, estimate, reference, autocast=False):
    estimate = estimate.clone().requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        value = loss(estimate, reference)
    value.backward()
    return value.detach(), estimate.grad


@pytest.mark.parametrize('name', LOSSES)
def test_value_and_gradient_equal_those_of_audiocraft(name, parts):
    arguments = json.loads((PARITY / 'training_parts.json').read_text())[name]
    value, grad = value_and_grad(LOSSES[name](**arguments), parts['estimate'], parts['reference'])
    expected = parts[f'{name}.grad']
    difference = (grad[..., ::97] - expected).abs() / expected.abs().max()
    assert value.item() == pytest.approx(parts[f'{name}.value'].item(), rel=1e-4)
    if name == 'mrstft':
        # The gradient of |log a - log b| changes its sign where a crosses b. In a few bins of these
        # signals a and b are so close that the rounding of the FFT, which depends on the processor,
        # decides the sign. A few samples of the gradient then differ. (With MKL_CBWR=COMPATIBLE in
        # the environment, all samples are within 2e-7.)
        assert (difference < 1e-4).float().mean() > 0.95
        assert difference.max() < 0.02
    else:
        assert difference.max() < 1e-4


@pytest.mark.parametrize('name', LOSSES)
def test_bfloat16_autocast_changes_nothing(name, parts):
    arguments = json.loads((PARITY / 'training_parts.json').read_text())[name]
    loss = LOSSES[name](**arguments)
    value, grad = value_and_grad(loss, parts['estimate'], parts['reference'])
    value_autocast, grad_autocast = value_and_grad(
        loss, parts['estimate'], parts['reference'], autocast=True
    )
    assert torch.equal(value, value_autocast)
    assert torch.equal(grad, grad_autocast)


@pytest.mark.parametrize(
    'loss', [MelSpectrogramL1Loss(24000), MultiScaleMelSpectrogramLoss(24000), MRSTFTLoss()]
)
@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 2, 37), (3, 1, 1001)])
def test_any_length_and_zero_loss_at_the_reference(loss, shape):
    wav = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    value, grad = value_and_grad(loss, wav, wav)
    assert value.item() == 0
    assert grad.isfinite().all()
    louder, grad = value_and_grad(loss, 2 * wav, wav)
    assert louder > 0
    assert grad.isfinite().all()


@pytest.mark.parametrize(
    'loss', [MelSpectrogramL1Loss(24000), MultiScaleMelSpectrogramLoss(24000), MRSTFTLoss()]
)
def test_silence_has_a_finite_loss_and_gradient(loss):
    value, grad = value_and_grad(loss, torch.zeros(1, 1, 4000), tone(440.0, seconds=1 / 6))
    assert value > 0
    assert value.isfinite()
    assert grad.isfinite().all()


def test_log_mel_loss_of_a_gain_is_the_log_of_the_gain():
    # In every band with a power well above the floor, a gain of 6.02 dB changes log10 of the power
    # by log10(4).
    wav = torch.randn(1, 1, 24000, generator=torch.Generator().manual_seed(0))
    loss = MelSpectrogramL1Loss(24000, n_mels=40)
    assert loss(2 * wav, wav).item() == pytest.approx(math.log10(4), rel=1e-4)


def test_mel_loss_increases_with_the_distance_of_tones():
    loss = MultiScaleMelSpectrogramLoss(24000, f_min=64, normalized=True, alphas=False)
    near, far = loss(tone(450.0), tone(440.0)), loss(tone(2000.0), tone(440.0))
    assert 0 < near < far / 2


def test_empty_mel_filters_cause_no_warning_and_hide_no_other():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        loss = MultiScaleMelSpectrogramLoss(24000, f_min=64)
        warnings.warn('another', UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ['another']
    smallest = loss.melspecs[0].filters
    assert smallest.shape == (33, 64)
    assert int((smallest.sum(0) == 0).sum()) > 0


def test_losses_have_no_state():
    for loss in MelSpectrogramL1Loss(16000), MultiScaleMelSpectrogramLoss(16000), MRSTFTLoss():
        assert loss.state_dict() == {}


def test_reference_gets_a_gradient_if_it_requires_one():
    reference = tone(440.0).requires_grad_()
    MelSpectrogramL1Loss(24000)(tone(500.0), reference).backward()
    assert reference.grad.norm() > 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r'hop_length.*1024.*got 2000'):
        MelSpectrogramL1Loss(24000, hop_length=2000)
    with pytest.raises(ValueError, match=r'win_length.*1024.*got 2048'):
        MelSpectrogramL1Loss(24000, win_length=2048)
    with pytest.raises(ValueError, match='f_max=20000'):
        MelSpectrogramL1Loss(24000, f_max=20000)
    with pytest.raises(ValueError, match='floor_level'):
        MultiScaleMelSpectrogramLoss(24000, floor_level=0.0)
    with pytest.raises(ValueError, match='range_end=6'):
        MultiScaleMelSpectrogramLoss(24000, range_end=6)
    with pytest.raises(ValueError, match='one entry per resolution'):
        MRSTFTLoss(n_ffts=[512])
    with pytest.raises(ValueError, match=r'hann_window.*got .round'):
        MRSTFTLoss(window='round')


@pytest.mark.parametrize(
    'loss',
    [MelSpectrogramL1Loss(24000), MultiScaleMelSpectrogramLoss(24000), MRSTFTLoss(), SISNR()],
)
def test_signals_of_different_shapes_are_refused(loss):
    with pytest.raises(ValueError, match=r'\[1, 1, 100\] and \[1, 1, 101\]'):
        loss(torch.zeros(1, 1, 100), torch.zeros(1, 1, 101))
