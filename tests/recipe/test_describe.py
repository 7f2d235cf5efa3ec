import pytest
import torch
from omegaconf import OmegaConf

from audiocodec import train
from audiocodec.recipe import describe, memory
from audiocodec.utils.config import build


def make(*overrides, recipe='debug'):
    cfg = train.main.get_xp([f'solver=compression/{recipe}', *overrides]).cfg
    return cfg, build(cfg.model)


def rows(pairs):
    return dict(pairs)


def table(cfg, model, brief=True):
    losses = {'l1': torch.nn.L1Loss()}
    return describe.describe(cfg, model, build(cfg.adversarial), losses, brief)


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
        f'{1000 * (max(latest) + 1) / 16000:.4g} ms, {max(latest) + 1} samples: a frame'
    )


def test_latency_in_words():
    assert describe.latency(make()[1]) == '20 ms, 320 samples: a frame, nothing after it'
    assert (
        describe.latency(make('seanet.lstm=1')[1])
        == '20 ms, 320 samples: a frame, nothing after it'
    )
    assert ', and 2 samples after it' in describe.latency(
        make('decoder.trim_right_ratio=0.75', 'seanet.ratios=[8]')[1]
    )
    _, stereo = make('dset=audio/example', 'seanet.n_filters=2', recipe='encodec_stereo_48khz')
    assert describe.latency(stereo) == 'the whole item: it is renormalised'
    assert rows(describe.reach_rows(stereo))['receptive field'].endswith(
        'as its norm averages over all time'
    )


def test_rates_are_exact():
    cfg, model = make('sample_rate=44100', 'seanet.ratios=[8,8,4,2]', 'rvq.n_q=6', 'rvq.bins=1024')
    found = rows(describe.rate_rows(model))
    assert found['hop length'] == '512 samples (8 x 8 x 4 x 2), 11.61 ms'
    assert found['frame rate'] == '86.1328125 Hz'
    assert found['bandwidth'].endswith('0.8613 (1), 1.723 (2), 3.445 (4), 5.168 (6)')
    for n in (1, 4, 6):
        model.set_num_codebooks(n)
        assert describe.bandwidth(model, n) == pytest.approx(model.bandwidth)
    assert 'bandwidth' not in rows(describe.rate_rows(make('quantizer=none')[1]))
    assert f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters' in table(
        cfg, model
    )


@pytest.mark.parametrize(
    ('overrides', 'updates', 'audio'),
    [
        (
            [],
            '20 an epoch, 280 in 14 epochs; 8 x 1 s an update',
            '0.04444 h an epoch, 0.6222 h in all',
        ),
        (
            ['dataset.segment_duration=2.5', 'dataset.batch_size=36', 'optim.epochs=2'],
            '20 an epoch, 40 in 2 epochs; 36 x 2.5 s an update',
            '0.5 h an epoch, 1 h in all',
        ),
        (
            ['optim.updates_per_epoch=null', 'dataset.train.num_samples=81'],
            '10 an epoch, 140 in 14 epochs; 8 x 1 s an update',
            '0.02222 h an epoch, 0.3111 h in all',
        ),
        (
            ['dataset.train.num_samples=81'],
            '10 an epoch, 140 in 14 epochs; 8 x 1 s an update',
            '0.02222 h an epoch, 0.3111 h in all',
        ),
        (
            ['+dataset.train.batch_size=4'],
            '20 an epoch, 280 in 14 epochs; 4 x 1 s an update',
            '0.02222 h an epoch, 0.3111 h in all',
        ),
        (
            ['optim.updates_per_epoch=null'],
            'one pass over the data an epoch, 14 epochs; 8 x 1 s an update',
            None,
        ),
        (
            ['dataset.segment_duration=null'],
            '20 an epoch, 280 in 14 epochs; 8 whole files an update',
            None,
        ),
    ],
)
def test_updates_and_hours(overrides, updates, audio):
    found = rows(describe.training_rows(make(*overrides)[0]))
    assert found['updates'] == updates
    assert found.get('audio') == audio


@pytest.mark.slow
def test_the_brief_form_leaves_out_what_takes_long():
    cfg, model = make('adversarial=msstftd', 'adversarial.discriminators.msstftd.filters=2')
    brief, full = table(cfg, model), table(cfg, model, brief=False)
    words = ' '.join(full.split())
    assert all(' '.join(line.split()) in words for line in brief.splitlines())
    for text in ('receptive field', 'memory', 'SEANetEncoder'):
        assert text not in brief
        assert text in full
    assert 'update of 8 items on one worker in float32: weights' in full


def test_a_model_of_other_parts_is_described_as_far_as_is_known():
    cfg, model = make()
    model.encoder.model.append(torch.nn.Conv1d(32, 32, 1))
    assert '  receptive field' not in table(cfg, model, brief=False)
    assert '  unknown: the receptive field of Conv1d is not known' in table(cfg, model)


# Memory

ADVERSARY = ['adversarial=msstftd', 'adversarial.discriminators.msstftd.filters=2']


def parts(*overrides):
    cfg, model = make(*ADVERSARY, *overrides)
    return (
        model,
        build(cfg.adversarial),
        {'msspec': build(cfg.losses.msspec)},
        {
            'model': lambda parameters: build(cfg.optim.optimizer, params=parameters),
            'adversaries': lambda parameters: build(cfg.adversarial.optimizer)(parameters),
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('optimizer', 'moments'), [('torch.optim.Adam', 2), ('torch.optim.SGD', 0)]
)
def test_what_is_held_for_good_is_counted_exactly(optimizer, moments):
    model, adversaries, losses, factories = parts()
    if optimizer.endswith('SGD'):
        factories['model'] = lambda parameters: torch.optim.SGD(parameters, lr=1.0)
    found = memory.estimate(model, adversaries, losses, factories, True, 2, 4096)
    own, others = (4 * sum(p.numel() for p in part.parameters()) for part in (model, adversaries))
    books = [buffer for name, buffer in model.named_buffers() if 'codebooks' in name]
    assert found.gradients == own + others
    assert found.moments == moments * own + 2 * others
    assert found.averages == own + 4 * sum(
        buffer.numel() for buffer in books if buffer.is_floating_point()
    )
    buffers = sum(
        b.numel() * b.element_size() for part in (model, adversaries) for b in part.buffers()
    )
    assert found.weights == own + others + buffers
    assert memory.estimate(model, adversaries, losses, factories, False, 2, 4096).averages == 0


@pytest.mark.slow
@pytest.mark.parametrize(('items', 'samples'), [(3, 20000), (5, 3000)])
def test_activations_grow_as_estimated(items, samples):
    model, adversaries, losses, _ = parts()
    update = memory._Update(model, adversaries, losses)
    expected = update.peak(items, samples)
    assert memory._extrapolate(update, items, samples) == pytest.approx(expected, rel=0.03)
    assert expected > 4 * memory._extrapolate(update, 1, 2100)


def test_tensors_are_counted_while_they_are_there():
    with memory._Counting() as counting:
        kept = torch.zeros(1000)
        view = kept[10:].view(-1, 10)
        for _ in range(3):
            (kept + 1).sum()
        assert counting.peak == 4 * (1000 + 1000 + 1)
        del kept
        assert counting._held == 4000
        del view
        assert counting._held == 0


@pytest.mark.slow
def test_an_estimate_changes_nothing():
    model, adversaries, losses, factories = parts()
    before = [
        {
            name: value.clone()
            for name, value in part.state_dict().items()
            if isinstance(value, torch.Tensor)
        }
        for part in (model, adversaries)
    ]
    state = torch.get_rng_state()
    memory.estimate(model, adversaries, losses, factories, True, 2, 4096)
    assert torch.equal(torch.get_rng_state(), state)
    for part, values in zip((model, adversaries), before):
        assert part.training
        assert all(torch.equal(part.state_dict()[name], value) for name, value in values.items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert adversaries.updates == 0


def test_no_estimate_is_no_reason_to_stop():
    cfg, model = make()
    OmegaConf.update(cfg, 'optim.optimizer._target_', 'torch.optim.Nothing')
    assert "no estimate: _target_: _target_ 'torch.optim.Nothing'" in table(cfg, model, brief=False)
    cfg.dataset.segment_duration = None
    assert 'depends on the files: dataset.segment_duration is null' in table(
        cfg, model, brief=False
    )
