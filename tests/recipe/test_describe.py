"""Description of recipes: latency, rates, receptive fields, updates and hours."""

import copy

import pytest
import torch

from audiocodec import train
from audiocodec.recipe import describe
from audiocodec.utils.config import build


def make(*overrides, recipe='debug'):
    cfg = train.main.get_xp([f'solver=compression/{recipe}', *overrides]).cfg
    return cfg, build(cfg.model)


def rows(pairs):
    return dict(pairs)


def table(cfg, model, brief=True):
    return describe.describe(cfg, model, build(cfg.adversarial), brief)


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
    assert describe.look_ahead(model) == max(latest)
    assert describe.latency(model).startswith(
        f'{1000 * (max(latest) + 1) / 16000:.4g} ms, {max(latest) + 1} samples: one frame'
    )


def test_latency_in_words():
    assert describe.latency(make()[1]) == '20 ms, 320 samples: one frame, no lookahead'
    assert (
        describe.latency(make('seanet.lstm=1')[1]) == '20 ms, 320 samples: one frame, no lookahead'
    )
    assert ' one frame and 2 samples of lookahead' in describe.latency(
        make('decoder.trim_right_ratio=0.75', 'seanet.ratios=[8]')[1]
    )
    _, stereo = make('dset=audio/example', 'seanet.n_filters=2', recipe='encodec_stereo_48khz')
    assert describe.latency(stereo) == 'the whole item: its loudness is normalized'
    assert rows(describe.reach_rows(stereo))['receptive field'].endswith(
        'the whole input, through attention or norms over all time'
    )


def test_rates_are_exact():
    cfg, model = make('sample_rate=44100', 'seanet.ratios=[8,8,4,2]', 'rvq.n_q=6', 'rvq.bins=1024')
    found = rows(describe.rate_rows(model))
    assert found['hop length'] == '512 samples (8 x 8 x 4 x 2), 11.61 ms'
    assert found['frame rate'] == '86.1328125 Hz'
    assert found['bandwidth'].endswith('0.8613 (1), 1.723 (2), 3.445 (4), 5.168 (6)')
    for n in (1, 4, 6):
        model.set_num_codebooks(n)
        assert model.bandwidth_of(n) == pytest.approx(model.bandwidth)
    assert 'bandwidth' not in rows(describe.rate_rows(make('quantizer=none')[1]))
    assert f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters' in table(
        cfg, model
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('overrides', 'updates', 'audio'),
    [
        (
            [],
            '20 per epoch, 280 in 14 epochs; 8 x 1 s per update',
            '0.04444 h per epoch, 0.6222 h in total',
        ),
        (
            ['dataset.segment_duration=2.5', 'dataset.batch_size=36', 'optim.epochs=2'],
            '20 per epoch, 40 in 2 epochs; 36 x 2.5 s per update',
            '0.5 h per epoch, 1 h in total',
        ),
        (
            ['optim.updates_per_epoch=null', 'dataset.train.num_samples=81'],
            '10 per epoch, 140 in 14 epochs; 8 x 1 s per update',
            '0.02222 h per epoch, 0.3111 h in total',
        ),
        (
            ['dataset.train.num_samples=81'],
            '10 per epoch, 140 in 14 epochs; 8 x 1 s per update',
            '0.02222 h per epoch, 0.3111 h in total',
        ),
        (
            ['+dataset.train.batch_size=4'],
            '20 per epoch, 280 in 14 epochs; 4 x 1 s per update',
            '0.02222 h per epoch, 0.3111 h in total',
        ),
        (
            ['optim.updates_per_epoch=null'],
            'one pass over the data per epoch, 14 epochs; 8 x 1 s per update',
            None,
        ),
        (
            ['dataset.segment_duration=null'],
            '20 per epoch, 280 in 14 epochs; 8 whole files per update',
            None,
        ),
    ],
)
def test_updates_and_hours(overrides, updates, audio):
    found = rows(describe.training_rows(make(*overrides)[0]))
    assert found['updates'] == updates
    assert found.get('audio') == audio


def test_the_brief_form_leaves_out_what_takes_long():
    cfg, model = make('adversarial=msstftd', 'adversarial.discriminators.msstftd.filters=2')
    brief, full = table(cfg, model), table(cfg, model, brief=False)
    words = ' '.join(full.split())
    assert all(' '.join(line.split()) in words for line in brief.splitlines())
    for text in ('receptive field', 'SEANetEncoder'):
        assert text not in brief
        assert text in full


def test_a_model_of_other_parts_is_described_as_far_as_is_known():
    cfg, model = make()
    model.encoder.model.append(torch.nn.Conv2d(32, 32, 1))
    assert '  receptive field' not in table(cfg, model, brief=False)
    assert '  unknown: the receptive field of Conv2d is not known' in table(cfg, model)


def test_the_latency_of_a_higher_output_rate_is_in_samples_of_the_input():
    _, plain = make('seanet.causal=false', 'seanet.ratios=[4,2]')
    rates = ['output_sample_rate=32000', 'decoder.ratios=[4,2,2]', 'decoder.n_filters=2']
    _, doubled = make('seanet.causal=false', 'seanet.ratios=[4,2]', *rates)
    assert measured_look_ahead(doubled) <= describe.look_ahead(doubled)
    assert describe.look_ahead(doubled) - measured_look_ahead(doubled) <= 1
    assert abs(describe.look_ahead(doubled) - describe.look_ahead(plain)) < 8


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
    assert describe.look_ahead(strided) == describe.look_ahead(plain) + 3 * 320


def test_the_size_of_an_entry_is_that_of_the_codebooks():
    for name, expected in (
        ('dac', ' of 8 channels'),
        ('fsq', 'entries'),
        ('rvq', 'of 32 channels'),
    ):
        _, model = make(f'quantizer={name}')
        text = dict(describe.parameter_rows(model))['codebooks']
        assert text.endswith(expected), text
