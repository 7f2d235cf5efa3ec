import pytest
import torch
from noise import noise

from audiocodec.metrics import LoudnessDifference


@pytest.mark.parametrize('gain', [0.5, 2.0])
def test_a_gain_is_a_difference_in_lu(gain):
    wav = 0.1 * noise(1, 48000)
    assert LoudnessDifference().score(gain * wav, wav, 48000) == pytest.approx(6.02, abs=0.01)


def test_silence_has_no_score():
    wav, silence = 0.1 * noise(1, 8000), torch.zeros(1, 8000)
    metric = LoudnessDifference()
    assert metric.score_item(silence, wav, 8000).reason.startswith('the estimate is silent')
    assert metric.score_item(wav, silence, 8000).reason.startswith('the reference is silent')
