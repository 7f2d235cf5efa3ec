import math

import pytest
import torch
from noise import noise, noisy

from audiocodec.losses import MelSpectrogramL1Loss
from audiocodec.metrics import MelDistance


def test_mel_distance_equals_the_mel_loss():
    estimate, reference = noisy(10.0, 2, 1, 9000)
    score = MelDistance().compute(estimate, reference, 24000).mean().item()
    loss = MelSpectrogramL1Loss(24000, n_mels=64, f_min=64.0)(estimate, reference)
    assert score == pytest.approx(loss.item(), rel=1e-5)
    assert not MelDistance.higher_is_better


def test_distance_of_a_gain_is_the_log_of_the_power_gain():
    wav = noise(2, 1, 24000)
    distances = MelDistance(n_mels=40).compute(2 * wav, wav, 24000)
    torch.testing.assert_close(
        distances.float(), torch.full((2,), math.log10(4)), rtol=1e-3, atol=0
    )
    assert MelDistance().compute(wav, wav, 24000).tolist() == [0, 0]


def test_padding_is_not_measured(assert_ignores_padding):
    assert_ignores_padding(MelDistance())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r'floor_level must be positive .* got 0'):
        MelDistance(floor_level=0)
    with pytest.raises(ValueError, match='f_max=20000'):
        MelDistance(f_max=20000.0).prepare(24000)
    with pytest.raises(ValueError, match='n_mels must be at least 1, got 0'):
        MelDistance(n_mels=0)
