import math

import pytest
import torch
from items import tiny_model
from noise import noise

from audiocodec.evaluation import Codec


def test_each_rate_is_what_the_model_decodes_with_that_many_codebooks():
    model = tiny_model()
    codec = Codec('tiny', model, [0.15, 0.45])
    wav = 0.1 * noise(2, 1, 4321)
    renditions = list(codec.reconstruct(wav, 8000))
    assert [rendition.rate for rendition in renditions] == codec.rates == [0.15, 0.45]
    for rendition, number in zip(renditions, (1, 3)):
        model.set_num_codebooks(number)
        codes, scale = model.encode(wav)
        assert torch.equal(rendition.codes, codes)
        with torch.no_grad():
            expected = model.decode(codes, scale)[..., :4321]
        torch.testing.assert_close(rendition.wav, expected, rtol=0, atol=1e-5)
        frames = math.ceil(4321 / 160)
        assert rendition.kbps == pytest.approx(number * 3 * frames / (4321 / 8000) / 1000)
        assert rendition.encode_seconds > 0
        assert rendition.decode_seconds > 0


def test_without_rates_it_is_the_one_that_is_set_and_the_model_is_not_changed():
    model = tiny_model()
    model.set_num_codebooks(2)
    codec = Codec('tiny', model)
    assert codec.rates == [0.3]
    list(codec.reconstruct(noise(1, 1, 800), 8000))
    Codec('tiny', model, [0.15])
    assert model.num_codebooks == 2


def test_rates_between_use_fewer_codebooks_and_equal_ones_are_one(caplog):
    codec = Codec('tiny', tiny_model(), [0.1, 0.2, 0.16, 24])
    assert codec.codebooks == {0.15: 1, 0.45: 3}
    (message,) = caplog.messages
    assert message == (
        'tiny: 0.1 kbps is below the lowest bandwidth of this model: use one of 0.15, 0.3, 0.45; '
        'this rate is left out'
    )


def test_rates_that_are_all_too_low_are_an_error():
    with pytest.raises(ValueError, match=r'tiny: 0\.1 kbps is below .* use one of 0\.15'):
        Codec('tiny', tiny_model(), [0.1])


def test_audio_of_another_rate_and_channels_is_converted_and_back():
    codec = Codec('tiny', tiny_model())
    wav = 0.1 * noise(1, 2, 7777)
    (rendition,) = codec.reconstruct(wav, 24000)
    assert rendition.wav.shape == wav.shape
    assert torch.equal(rendition.wav[:, 0], rendition.wav[:, 1])
    assert codec.to_own(wav, 24000).shape == (1, 1, 2592)


def test_a_renormalizing_model_gets_its_scale():
    model = tiny_model()
    model.renormalize = True
    codec = Codec('tiny', model)
    wav = noise(1, 1, 1600)
    soft, loud = (next(codec.reconstruct(gain * wav, 8000)).wav for gain in (0.01, 1.0))
    torch.testing.assert_close(100 * soft, loud, rtol=1e-3, atol=1e-4)


def test_a_continuous_model_has_no_codes():
    node = tiny_model().built_from
    from audiocodec.utils import config

    quantizer = {'_target_': 'audiocodec.quantization.NoQuantizer', 'dimension': 4}
    codec = Codec('free', config.build({**node, 'quantizer': quantizer}).eval(), [1.5, 3])
    (rendition,) = codec.reconstruct(noise(1, 1, 800), 8000)
    assert (rendition.rate, rendition.kbps, rendition.codes) == (0.0, 0.0, None)


def test_the_fingerprint_is_of_the_weights():
    one, same, other = Codec('a', tiny_model()), Codec('b', tiny_model()), Codec('a', tiny_model(1))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    facts = one.describe()
    assert facts['frame_rate'] == 50
    assert facts['parameters'] == sum(p.numel() for p in tiny_model().parameters())
