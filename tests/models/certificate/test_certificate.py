import json

import pytest
import soundfile
import torch

from audiocodec.data import write_audio
from audiocodec.models import EncodecModel
from audiocodec.models.certificate import Clips, certify, load_clips
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import ResidualVectorQuantizer


def made(**options):
    """Return a model with random weights."""
    torch.manual_seed(0)
    renormalize = options.pop('renormalize', False)
    segment_duration = options.pop('segment_duration', None)
    seanet = {'dimension': 8, 'n_filters': 4, 'ratios': [4, 2], **options}
    quantizer = ResidualVectorQuantizer(dimension=8, n_q=3, bins=16)
    quantizer.codebooks.embed.normal_(std=0.3)
    return EncodecModel(
        SEANetEncoder(**seanet),
        SEANetDecoder(**seanet),
        quantizer,
        1000,
        1,
        renormalize=renormalize,
        segment_duration=segment_duration,
    ).eval()


@pytest.fixture
def clips():
    generator = torch.Generator().manual_seed(0)
    wavs = [torch.randn(1, size, generator=generator) * 0.1 for size in (1200, 1017)]
    return Clips('noise', ['a', 'b'], wavs)


@pytest.mark.parametrize(
    'options',
    [
        {'causal': True, 'norm': 'weight_norm', 'lstm': 1},
        {'causal': True, 'pad_mode': 'constant'},
        {'causal': False, 'norm': 'weight_norm', 'lstm': 1},
        {'causal': True, 'pad_mode': 'replicate'},
    ],
    ids=str,
)
def test_all_ways_agree(options, clips, tmp_path):
    found = certify(made(**options), 'a model', clips, brief=True)
    assert found.passed
    assert not found.impossible
    assert len(found.comparisons) == 5
    assert found.kbps == pytest.approx(3 * 4 * 125 / 1000)
    ours, apart = found.clicks.values()
    assert max(ours) < -110
    assert apart[0] > apart[1] + 3  # chunks that are decoded apart click
    assert apart[0] > -60
    found.save(tmp_path / 'certificate.json')
    saved = json.loads((tmp_path / 'certificate.json').read_text())
    assert saved['passed'] is True
    assert saved['comparisons']['padded batch']['codes_different'] == 0
    text = str(found)
    assert text.startswith('certificate of a model: passed')
    assert 'latency' in text
    assert 'receptive field' in text


def test_models_that_need_the_whole_say_so(clips):
    found = certify(made(norm='time_group_norm'), 'a model', clips, brief=True)
    assert found.passed
    assert set(found.comparisons) == {'padded batch', 'for_inference', 'for_cpu'}
    assert len(found.impossible) == 2
    assert 'not possible: this model cannot stream' in str(found)


def test_segments_are_chunks(clips):
    model = made(norm='time_group_norm', renormalize=True, segment_duration=0.5)
    found = certify(model, 'a model', clips, brief=True)
    assert found.passed
    assert 'chunks of 0.5 s' in found.comparisons
    assert not found.clicks


def test_a_way_that_differs_is_told(clips):
    model = made(causal=True)
    other = made(causal=True)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.1)
    model.for_inference = lambda: other
    found = certify(model, 'a model', clips, brief=True)
    assert not found.passed
    # the copy for CPUs, with which streams are computed, is made from that for inference
    assert [name for name, each in found.comparisons.items() if each.passed] == ['padded batch']
    assert 'FAILED' in str(found)
    assert 'for_inference: DIFFERENT' in str(found)


def test_the_full_form_has_speeds_and_more_streams(clips):
    found = certify(made(causal=True), 'a model', clips)
    brief = certify(made(causal=True), 'a model', clips, brief=True)
    assert found.passed
    name = 'stream in random pieces'
    assert found.comparisons[name].codes == 5 * brief.comparisons[name].codes
    assert 'stream in pieces of one frame' in found.comparisons
    assert list(found.speeds) == ['encode and decode', 'stream in pieces of 80 ms']
    assert min(found.speeds.values()) > 0
    assert torch.get_num_threads() >= 1


def test_nan_is_not_certified(clips, tmp_path):
    """All ways make the same codes of it."""
    model = made(causal=True)
    write_audio(tmp_path / 'a.wav', clips.wavs[0], 1000)
    assert load_clips(model, [tmp_path / 'a.wav']).wavs[0].shape == (1, 1200)
    soundfile.write(tmp_path / 'nan.wav', [0.1, float('nan')] * 500, 1000, subtype='FLOAT')
    with pytest.raises(ValueError, match=r'nan.wav: contains NaN or Inf'):
        load_clips(model, [tmp_path / 'a.wav', tmp_path / 'nan.wav'])
    with torch.no_grad():
        model.encoder.model[0].conv.conv.bias[0] = torch.nan
    with pytest.raises(ValueError, match='output of the encoder contains NaN or Inf'):
        certify(model, 'a model', clips, brief=True)
