"""Description of recipes: latency, rates, receptive fields, updates and hours."""

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
        'since its norm averages over all time'
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
    model.encoder.model.append(torch.nn.Conv1d(32, 32, 1))
    assert '  receptive field' not in table(cfg, model, brief=False)
    assert '  unknown: the receptive field of Conv1d is not known' in table(cfg, model)
