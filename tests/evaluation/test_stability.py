import pytest
import torch
from items import tiny_model
from noise import noise

from audiocodec.evaluation import Codec
from audiocodec.evaluation.stability import stability


def test_fractions_of_equal_codes():
    codec = Codec('tiny', tiny_model())
    wav = 0.1 * noise(1, 1, 8000)
    found = stability(codec, wav)
    codes = codec.encode(wav)[0]
    shifted = codec.encode(wav[..., 1:])[0]
    assert found['stable_shift'] == pytest.approx((codes == shifted).double().mean().item())
    middle = codec.encode(wav[..., 12 * 160 : 38 * 160])[0]
    expected = (middle == codes[..., 12:38]).double().mean().item()
    assert found['stable_context'] == pytest.approx(expected)
    again = codec.encode(codec.model.decode(*codec.encode(wav))[..., :8000])[0]
    assert found['stable_recode'] == pytest.approx((codes == again).double().mean().item())
    assert all(0 <= value <= 1 for value in found.values())


def test_silence_is_stable():
    found = stability(Codec('tiny', tiny_model()), torch.zeros(1, 1, 8000))
    assert found['stable_shift'] == 1
    assert found['stable_context'] > 0.8  # but at its ends


def test_a_short_item_lacks_what_it_is_too_short_for():
    codec = Codec('tiny', tiny_model())
    assert list(stability(codec, torch.zeros(1, 1, 1))) == ['stable_recode']
    assert list(stability(codec, torch.zeros(1, 1, 160))) == ['stable_shift', 'stable_recode']
