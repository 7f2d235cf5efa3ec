import pytest
import torch
from items import tiny_model
from noise import noise

from audiocodec.evaluation import Codec
from audiocodec.evaluation.stability import stability
from audiocodec.models import EncodecModel
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.modules.networks.snac import SNACDecoder, SNACEncoder
from audiocodec.quantization import ResidualVectorQuantizer, StridedResidualQuantizer


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


@pytest.mark.parametrize('length', [8000, 8001, 8161])
def test_groups_of_frames_are_not_cut(length):
    torch.manual_seed(0)
    size = {'dimension': 16, 'ratios': [4, 2], 'attention_window': None}
    model = EncodecModel(
        SNACEncoder(n_filters=4, frame_multiple=4, **size),
        SNACDecoder(n_filters=16, **size),
        StridedResidualQuantizer(16, strides=[4, 2, 1], bins=16),
        sample_rate=16000,
        channels=1,
    )
    codec = Codec('tiny', model.eval())
    wav = 0.1 * noise(1, 1, length)
    codes = codec.encode(wav)[0]
    frames = -(-length // 32) * 4
    begin = round(frames / 16) * 4
    assert codes.shape[-1] == frames
    middle = codec.encode(wav[..., begin * 8 : (frames - begin) * 8])[0]
    expected = (middle == codes[..., begin : frames - begin]).double().mean().item()
    assert 0 < expected < 1
    assert stability(codec, wav)['stable_context'] == pytest.approx(expected)


def test_context_of_a_higher_output_rate_is_measured():
    torch.manual_seed(0)
    model = EncodecModel(
        SEANetEncoder(dimension=8, n_filters=4, ratios=(4, 2)),
        SEANetDecoder(dimension=8, n_filters=4, ratios=(4, 2, 2)),
        ResidualVectorQuantizer(8, n_q=2, bins=4),
        sample_rate=16000,
        channels=1,
        output_sample_rate=32000,
    )
    codec = Codec('tiny', model.eval())
    wav = 0.1 * noise(1, 1, 1600)
    codes = codec.encode(wav)[0]
    middle = codec.encode(wav[..., 25 * 16 : 75 * 16])[0]
    expected = (middle == codes[..., 25:75]).double().mean().item()
    assert stability(codec, wav)['stable_context'] == pytest.approx(expected)


def test_silence_is_stable():
    found = stability(Codec('tiny', tiny_model()), torch.zeros(1, 1, 8000))
    assert found['stable_shift'] == 1
    assert found['stable_context'] > 0.8  # but at its ends


def test_a_short_item_lacks_what_it_is_too_short_for():
    codec = Codec('tiny', tiny_model())
    assert list(stability(codec, torch.zeros(1, 1, 1))) == ['stable_recode']
    assert list(stability(codec, torch.zeros(1, 1, 160))) == ['stable_shift', 'stable_recode']
