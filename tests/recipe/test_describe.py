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
