"""Description of models: sizes, rates, receptive fields, latency."""

import copy

import pytest
import torch

from audiocodec import train
from audiocodec.models import description
from audiocodec.utils.config import build


def make(*overrides, recipe='debug'):
    cfg = train.main.get_xp([f'solver=compression/{recipe}', *overrides]).cfg
    return cfg, build(cfg.model)


def rows(pairs):
    return dict(pairs)


@pytest.mark.parametrize(
    'overrides',
    [
        ['seanet.ratios=[3,2]'],
        ['seanet.ratios=[2,3]', 'seanet.causal=false'],
        [
            'seanet.ratios=[2,2]',
            'seanet.causal=false',
            'seanet.n_residual_layers=2',
            'seanet.kernel_size=5',
        ],
        ['seanet.ratios=[3,2]', 'decoder.trim_right_ratio=0.5'],
        ['seanet.ratios=[6]', 'decoder.trim_right_ratio=0.0'],
    ],
)
def test_the_latency_is_when_the_last_sample_that_counts_has_come(overrides):
    _, model = make('quantizer=none', *overrides)
    hop, length = model.hop_length, 40 * model.hop_length
    model = model.double().eval()
    torch.manual_seed(0)
    plain = torch.randn(1, 1, length, dtype=torch.float64)
    with torch.no_grad():
        changes = (
            model(plain + torch.eye(length, dtype=torch.float64)[:, None]).wav != model(plain).wav
        )[:, 0]
    middle = 20 * hop
    latest = [
        int(changes[:, middle + phase].nonzero().max()) - middle - phase for phase in range(hop)
    ]
    assert description.look_ahead(model) == max(latest)
    assert description.latency(model).startswith(
        f'{1000 * (max(latest) + 1) / 16000:.4g} ms, {max(latest) + 1} samples: one frame'
    )


def test_latency_in_words():
    assert description.latency(make()[1]) == '20 ms, 320 samples: one frame, no lookahead'
    assert (
        description.latency(make('seanet.lstm=1')[1])
        == '20 ms, 320 samples: one frame, no lookahead'
    )
    assert ' one frame and 2 samples of lookahead' in description.latency(
        make('decoder.trim_right_ratio=0.75', 'seanet.ratios=[8]')[1]
    )
    _, stereo = make('dset=audio/example', 'seanet.n_filters=2', recipe='encodec_stereo_48khz')
    assert description.latency(stereo) == 'the whole item: its loudness is normalized'
    assert rows(description.reach_rows(stereo))['receptive field'].endswith(
        'the whole input, through attention or norms over all time'
    )


def test_rates_are_exact():
    _, model = make('sample_rate=44100', 'seanet.ratios=[8,8,4,2]', 'rvq.n_q=6', 'rvq.bins=1024')
    found = rows(description.rate_rows(model))
    assert found['hop length'] == '512 samples (8 x 8 x 4 x 2), 11.61 ms'
    assert found['frame rate'] == '86.1328125 Hz'
    assert found['bandwidth'].endswith('0.8613 (1), 1.723 (2), 3.445 (4), 5.168 (6)')
    for n in (1, 4, 6):
        model.set_num_codebooks(n)
        assert model.bandwidth_of(n) == pytest.approx(model.bandwidth)
    assert 'bandwidth' not in rows(description.rate_rows(make('quantizer=none')[1]))
    size = sum(p.numel() for p in model.parameters()) / 1e6
    assert rows(description.parameter_rows(model))['model'] == f'{size:.2f} M parameters'


def test_the_latency_of_a_higher_output_rate_is_in_samples_of_the_input():
    _, plain = make('seanet.causal=false', 'seanet.ratios=[4,2]')
    rates = ['output_sample_rate=32000', 'decoder.ratios=[4,2,2]', 'decoder.n_filters=2']
    _, doubled = make('seanet.causal=false', 'seanet.ratios=[4,2]', *rates)
    assert measured_look_ahead(doubled) <= description.look_ahead(doubled)
    assert description.look_ahead(doubled) - measured_look_ahead(doubled) <= 1
    assert abs(description.look_ahead(doubled) - description.look_ahead(plain)) < 8


def measured_look_ahead(model):
    """Latest input sample, relative to the time of the output sample, that changes it."""
    model = copy.deepcopy(model).double().eval()
    torch.manual_seed(0)
    wav = torch.randn(1, 1, 320, dtype=torch.float64)
    latest = 0
    for start in range(100, 140):
        changed = wav.clone()
        changed[..., start:] += 1
        outputs = [model.synthesize(model.encode_latent(each)[0]) for each in (wav, changed)]
        first = int((outputs[0] != outputs[1]).flatten().nonzero()[0])
        latest = max(latest, start - first * model.sample_rate / model.output_sample_rate)
    return latest


def test_codebooks_of_several_frames_add_to_the_latency():
    _, plain = make('seanet.lstm=0')
    _, strided = make('seanet.lstm=0', 'quantizer=strided', 'quantizer.bins=8')
    assert description.look_ahead(strided) == description.look_ahead(plain) + 3 * 320


def test_the_size_of_an_entry_is_that_of_the_codebooks():
    for name, expected in (
        ('dac', ' of 8 channels'),
        ('fsq', 'entries'),
        ('rvq', 'of 32 channels'),
    ):
        _, model = make(f'quantizer={name}')
        text = dict(description.parameter_rows(model))['codebooks']
        assert text.endswith(expected), text
