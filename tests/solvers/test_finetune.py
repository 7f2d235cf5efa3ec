"""Fine-tuning from models of every kind: what is loaded, what is new, and the warm-up."""

import functools
import logging
import shutil
from contextlib import contextmanager
from pathlib import Path

import dora
import pytest
import torch
from huggingface_hub import constants

from audiocodec import train
from audiocodec.models import export
from audiocodec.models.formats import hf
from audiocodec.run import checkpoint
from audiocodec.solvers import CompressionSolver, finetune
from audiocodec.utils.config import ConfigError

# A small model with everything on: discriminators, balancer, quantizer dropout, averaged weights.
TINY = (
    'solver=compression/debug',
    'device=cpu',
    'num_threads=1',
    'seanet.n_filters=2',
    'seanet.dimension=8',
    'seanet.lstm=1',
    'rvq.n_q=3',
    'rvq.bins=16',
    'dataset.batch_size=2',
    'dataset.segment_duration=0.2',
    'adversarial=msstftd',
    'adversarial.discriminators.msstftd.filters=2',
    'adversarial.discriminators.msstftd.n_ffts=[256,128]',
    'adversarial.discriminators.msstftd.hop_lengths=[64,32]',
    'adversarial.discriminators.msstftd.win_lengths=[256,128]',
    'optim.lr=1e-3',
    'losses.msspec.range_end=8',
)
PARITY = Path(__file__).parents[1] / 'fixtures' / 'parity'
# Trained on dataset/example/train in batches of 8 x 1 s: recipe `debug` with seanet.lstm=1 for 280
# updates, then 1300 with discriminators (msstftd with 4 filters, learning rate 1e-3), which are not
# in the file. Averaged weights in half precision.
TRAINED = Path(__file__).parents[1] / 'fixtures' / 'finetune' / 'codec.safetensors'


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp('runs')


@functools.cache  # composing takes longest
def experiment(*overrides):
    return train.main.get_xp(overrides)


@contextmanager
def solver_of(runs, *overrides):
    with experiment(*TINY, f'dora.dir={runs}', *overrides).enter(stack=True):
        solver = train.get_solver(dora.get_xp().cfg)
        solver.model.train()
        yield solver


def batch(seed):
    time = torch.arange(3200) / 16000
    notes = 200 * 2 ** (3 * torch.rand(2, 1, 1, generator=torch.Generator().manual_seed(seed)))
    return 0.3 * torch.sin(2 * torch.pi * notes * time)


def copied(state):
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state


GENERATOR = ('model', 'ema', 'optimizer', 'schedule', 'balancer')


@pytest.fixture(scope='module')
def trained(runs):
    """Train for three updates; return its checkpoint, bundle, exports and state after a fourth."""
    with solver_of(runs) as solver:
        for index in range(3):
            solver.run_step(batch(index))
        solver.commit()
        bundle = runs / 'bundle.th'
        export.bundle.save(checkpoint.load_checkpoint(solver.checkpoint_path), bundle)
        compact = export.compact.export_encodec(solver.checkpoint_path, runs / 'model.bin')
        hf.save(CompressionSolver.model_from_checkpoint(compact), runs / 'hf')
        solver.run_step(batch(3))
        yield {
            'sig': f'//sig/{solver.xp.sig}',
            'folder': solver.folder,
            'checkpoint': solver.checkpoint_path,
            'bundle': bundle,
            'compact': compact,
            'hf': runs / 'hf',
            'state': copied(solver.state_dict()),
        }


@pytest.mark.slow
def test_the_first_update_after_a_bundle_is_that_of_the_run_itself(
    runs, trained, caplog, assert_equal
):
    caplog.set_level(logging.INFO)
    for source in ('bundle', 'checkpoint', 'sig', 'folder'):
        with solver_of(runs) as solver:
            solver.initialize_from(str(trained[source]))
            solver.run_step(batch(3))
            found, expected = solver.state_dict(), copied(trained['state'])
            for state in (found, expected):  # schedules start over
                state['adversaries']['_extra_state'].pop('schedule')
            for part in ('model', 'ema', 'optimizer', 'balancer', 'adversaries'):
                assert_equal(found[part], expected[part], part)
            assert solver.updates == 1
    assert caplog.text.count('newly initialized: nothing') == 4


@pytest.mark.slow
def test_rates_are_the_recipes_and_moments_the_checkpoints(runs, trained):
    with solver_of(runs, 'optim.lr=1e-5', 'optim.optimizer.betas=[0.8,0.9]') as solver:
        solver.initialize_from(str(trained['bundle']))
        for optimizer in (solver.optimizer, solver.adversaries.optimizer):
            assert optimizer.param_groups[0]['lr'] == 1e-5
        assert list(solver.optimizer.param_groups[0]['betas']) == [
            0.8,
            0.9,
        ]  # a tuple in newer PyTorch
        assert solver.optimizer.state_dict()['state'][0]['exp_avg'].norm() > 0


def test_without_optimizers_it_starts_from_averaged_weights(runs, trained):
    with solver_of(runs, 'finetune.optimizers=false') as solver:
        solver.initialize_from(str(trained['bundle']))
        content = checkpoint.load(trained['bundle'])['state']
        state = solver.model.state_dict()
        for name, value in content['ema']['averages'].items():
            if 'codebooks' not in name or name.endswith('embed'):
                assert torch.equal(state[name], value), name
        assert not torch.equal(
            state['quantizer.codebooks.embed'], content['model']['quantizer.codebooks.embed']
        )
        assert (
            solver.optimizer.state_dict()['state']
            == solver.adversaries.optimizer.state_dict()['state']
            == {}
        )
        assert solver.ema.count == 0
        assert all(torch.equal(value, state[name]) for name, value in solver.ema.averages.items())
        assert not solver.adversaries.in_warmup  # the discriminators are loaded all the same
        assert torch.equal(solver.balancer.norm_l1, content['balancer']['norm_l1'])


@pytest.mark.parametrize('kind', ['compact', 'hf'])
def test_new_discriminators_train_first_and_the_generator_does_not_change(
    runs, trained, kind, assert_equal
):
    with solver_of(runs, 'adversarial.warmup=3', 'adversarial.every=2') as solver:
        solver.initialize_from(str(trained[kind]))
        before = copied(solver.state_dict())
        losses = []
        for index in range(3):
            assert solver.adversaries.in_warmup
            losses.append(solver.run_step(batch(index)))
        after = solver.state_dict()
        for part in GENERATOR:
            assert_equal(after[part], before[part], part)
        assert [sorted(metrics) for metrics in losses[:2]] == [
            ['d_grad_norm', 'd_msstftd', 'd_msstftd_fake_acc', 'd_msstftd_real_acc', 'skipped'],
            ['skipped'],
        ]
        discriminators = [
            name
            for name, value in before['adversaries'].items()
            if name.startswith('discriminators.') and torch.equal(value, after['adversaries'][name])
        ]
        assert discriminators == []
        assert solver.updates == 3
        assert solver.model.training
        metrics = solver.run_step(batch(3))
        assert not solver.adversaries.in_warmup
        assert {'adv_msstftd', 'feat_msstftd', 'msspec'} <= metrics.keys()
        for part in GENERATOR:
            with pytest.raises(AssertionError):
                assert_equal(solver.state_dict()[part], before[part])


def test_interrupted_while_they_are_alone_it_goes_on_where_it_was(runs, trained, assert_equal):
    overrides = (f'continue_from={trained["compact"]}', 'adversarial.warmup=3')
    with solver_of(runs, *overrides) as solver:
        solver.initialize_from(str(trained['compact']))
        for index in range(2):
            solver.run_step(batch(index))
        solver.commit()
        for index in range(2, 5):
            solver.run_step(batch(index))
        whole = copied(solver.state_dict())
    with solver_of(runs, *overrides) as solver:
        assert solver.restore()
        for index in range(2, 5):
            solver.run_step(batch(index))
        assert_equal({**solver.state_dict(), 'history': []}, {**whole, 'history': []})
        assert solver.updates == 5
        shutil.rmtree(solver.folder)


def test_without_warmup_nothing_waits(runs, trained):
    with solver_of(runs, 'adversarial.warmup=0') as solver:
        solver.initialize_from(str(trained['compact']))
        assert not solver.adversaries.in_warmup
        assert 'adv_msstftd' in solver.run_step(batch(0))


def test_what_does_not_fit_the_recipe_is_newly_initialized(runs, trained, caplog):
    caplog.set_level(logging.INFO)
    with solver_of(
        runs,
        'adversarial.discriminators.msstftd.filters=3',
        'losses.msspec.n_mels=32',
        'optim.optimizer._target_=torch.optim.AdamW',
        'rvq.decay=0.9',
    ) as solver:
        solver.initialize_from(str(trained['bundle']))
        assert solver.adversaries.in_warmup
        assert solver.optimizer.state_dict()['state'] == {}
        assert [name for name, value in solver.balancer.named_buffers() if value.any()] == [
            'norm_l1'
        ]
    assert (
        'loaded: averaged weights, balance of l1; newly initialized: optimizer, running average, '
        'discriminator' in caplog.text
    )
    assert 'training options changed: rvq.decay=0.9 (checkpoint: 0.99)' in caplog.text
    assert (
        'discriminator warm-up: only they train for 300 updates; over as many again, their weight'
        in caplog.text
    )
    with solver_of(
        runs, 'adversarial.discriminators.msstftd.n_ffts=[256,512]'
    ) as solver:  # of the same shapes
        solver.initialize_from(str(trained['bundle']))
        assert solver.adversaries.in_warmup


def test_discriminators_that_had_not_started_are_fresh(runs, trained, tmp_path):
    content = checkpoint.load(trained['bundle'])
    content['state']['adversaries']['_extra_state'] = {
        'updates': 3,
        'optimizer': {'state': {}, 'param_groups': []},
    }
    checkpoint.save(content, tmp_path / 'early.th')
    with solver_of(runs) as solver:
        solver.initialize_from(str(tmp_path / 'early.th'))
        assert solver.adversaries.in_warmup


@pytest.mark.slow
@pytest.mark.parametrize('statistics', ['missing', 'zeros', 'of other entries'])
def test_the_first_updates_leave_codebooks_in_place_whatever_the_file_says_of_them(
    runs, trained, tmp_path, statistics
):
    content = checkpoint.load(trained['checkpoint'])
    state = content['state']['model']
    books = {
        name: state[f'quantizer.codebooks.{name}']
        for name in ('embed', 'embed_avg', 'cluster_size')
    }
    if statistics == 'zeros':  # as transformers initializes them
        books['cluster_size'].zero_()
    elif statistics == 'of other entries':  # and three quarters of them hardly used
        books['embed_avg'].copy_(torch.randn_like(books['embed_avg']))
        books['cluster_size'][:, 4:] = 1e-3
    checkpoint.save(
        {**content, 'format': checkpoint.MODEL_FORMAT, 'version': 1, 'state': state},
        tmp_path / 'model.th',
    )
    source = trained['compact'] if statistics == 'missing' else tmp_path / 'model.th'
    with solver_of(runs, 'adversarial.warmup=0', 'rvq.q_dropout=false') as solver:
        solver.initialize_from(str(source))
        books = solver.model.quantizer.codebooks
        before = books.embed.clone()
        for index in range(3):
            solver.run_step(batch(index))
            assert books.dead.max() == 0
        moved = (books.embed - before).norm(dim=-1) / before.norm(dim=-1).clamp(min=before.std())
        assert 0 < moved.mean() < 0.2


def test_a_recipe_of_another_model_is_refused_before_there_is_data(runs):
    with solver_of(
        runs, 'datasource.train=/nowhere', f'continue_from={PARITY}/stereo_48khz.audiocraft.bin'
    ) as solver:
        with pytest.raises(ConfigError, match=r'in \d+ options:') as error:
            solver.prepare()
        assert (
            f'continue_from={PARITY}/stereo_48khz.audiocraft.bin: the model of the recipe'
            in str(error.value)
        )
        for line in (
            'sample_rate=16000: the checkpoint has 48000',
            'channels=1: the checkpoint has 2',
            'model.renormalize=false: the checkpoint has true',
            'rvq.n_q=3: the checkpoint has',
        ):
            assert line in str(error.value)
        assert 'dataloaders' not in vars(solver)


@pytest.mark.parametrize('kind', ['xcodec', 'neucodec'])
def test_models_that_cannot_be_trained_are_refused(runs, tmp_path, kind):
    (tmp_path / 'config.json').write_text(f'{{"model_type": "{kind}"}}')
    with (
        solver_of(runs) as solver,
        pytest.raises(ValueError, match=f'of type {kind}, .* cannot be trained here'),
    ):
        solver.initialize_from(f'//pretrained/{tmp_path}')


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('//sig/00000000', r'//sig/00000000: no checkpoint at .*AUDIOCODEC_DORA_DIR'),
        (
            'outputs/nothing',
            r"'outputs/nothing': no such file or folder\. Expected //sig/SIG, //pretrained/NAME",
        ),
        ('//pretrained/facebook/encodec_24khz', 'https://huggingface.co/facebook/encodec_24khz'),
        ('//pretrained/encodec_24khz', "did you mean 'facebook/encodec_24khz'"),
    ],
)
def test_sources_that_are_not_there(source, message, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ValueError, match=message):
        finetune.find_source(source)


def test_a_signature_is_searched_next_to_the_running_experiment_first(runs, tmp_path, monkeypatch):
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path))
    for root in (runs, tmp_path):
        (root / 'xps' / '0a1b2c3d').mkdir(parents=True)
        (root / 'xps' / '0a1b2c3d' / 'checkpoint.th').touch()
    with solver_of(runs):
        assert finetune.find_source('//sig/0a1b2c3d') == runs / 'xps' / '0a1b2c3d' / 'checkpoint.th'
    monkeypatch.setattr(dora, 'is_xp', lambda: False)  # the fixture `trained` may have one running
    assert finetune.find_source('//sig/0a1b2c3d') == tmp_path / 'xps' / '0a1b2c3d' / 'checkpoint.th'


def test_a_damaged_checkpoint_is_said_to_be_one(runs, trained, tmp_path):
    content = checkpoint.load(trained['bundle'])
    content['state']['adversaries']['_extra_state']['optimizer'] = {'state': {0: 1}}
    checkpoint.save(content, tmp_path / 'damaged.th')
    with solver_of(runs) as solver, pytest.raises(ValueError, match=r'damaged\.th is damaged'):
        solver.initialize_from(str(tmp_path / 'damaged.th'))


def test_where_it_starts_is_part_of_the_signature():
    overrides = (
        [],
        ['continue_from=//sig/0'],
        ['finetune.optimizers=false'],
        ['adversarial.warmup=5'],
    )
    assert len({experiment(*TINY, *each).sig for each in overrides}) == len(overrides)


def mel_before_and_after(runs, source, updates, warmup):
    """Return valid mel before and after some updates of the model, with new discriminators."""
    options = (
        'solver=compression/debug',
        'device=cpu',
        'num_threads=1',
        'seanet.lstm=1',
        'adversarial=msstftd',
        'adversarial.discriminators.msstftd.filters=4',
        f'adversarial.warmup={warmup}',
        'dataset.num_workers=0',
        'dataset.batch_size=4',
        'dataset.segment_duration=0.3',
        'optim.lr=3e-4',
        'seed=2',
        'valid.every=1',
        'evaluate.every=null',
        'generate.every=null',
        'optim.updates_per_epoch=1000',
        f'dora.dir={runs}',
    )
    with experiment(*options, f'continue_from={source}').enter(stack=True):
        solver = train.get_solver(dora.get_xp().cfg)
        solver.prepare()
        solver.model.train()
        before = solver.valid()['mel']
        for _, (wav, _) in zip(range(warmup + updates), solver.dataloaders['train']):
            solver.run_step(wav)
        assert solver.updates == warmup + updates
        return before, solver.valid()['mel']


@pytest.mark.slow
def test_valid_mel_does_not_rise_with_a_fresh_adversary_unless_it_is_followed_at_once(
    runs, tmp_path
):
    hf.save(CompressionSolver.model_from_checkpoint(TRAINED), tmp_path / 'hf')
    before, after = mel_before_and_after(
        runs, f'//pretrained/{tmp_path}/hf', updates=25, warmup=100
    )
    assert 0.85 < before < 0.95
    assert after <= before
    before, after = mel_before_and_after(runs, f'//pretrained/{tmp_path}/hf', updates=20, warmup=0)
    assert after > 1.02 * before


def encoded(model, seed=7):
    return model.eval().encode(batch(seed))[0]


def test_the_decoder_alone_is_trained_and_the_codes_stay_the_same(runs, trained, caplog):
    caplog.set_level(logging.INFO)
    before = encoded(CompressionSolver.model_from_checkpoint(trained['compact']))
    with solver_of(
        runs, f'continue_from={trained["compact"]}', 'train.only=decoder', 'adversarial.warmup=0'
    ) as solver:
        assert not solver.prepare()
        weights = copied(solver.model.state_dict())
        solver.model.train()
        for index in range(3):
            solver.run_step(batch(index))
        solver.check_frozen()
        assert 'unchanged, bit by bit: encoder, quantizer' in caplog.text
        changed = {
            name if name.startswith('quantizer') else name.partition('.')[0]
            for name, value in solver.model.state_dict().items()
            if not torch.equal(value, weights[name])
        }
        assert changed == {'decoder', 'quantizer.codebooks.updates'}
        solver.history.append({'train': {'usage_1': 0.0}})
        solver.warn({'usage_1': 0.0})
        assert 'codebooks used less than' not in caplog.text
        solver.history.clear()
        assert torch.equal(encoded(solver.model), before)
        solver.commit()
        averaged = CompressionSolver.model_from_checkpoint(solver.checkpoint_path)
        assert torch.equal(encoded(averaged), before)
        assert solver.optimizer.param_groups[0]['params'] == list(solver.model.decoder.parameters())


def test_a_part_alone_needs_a_trained_model_and_a_name_that_exists(runs):
    fresh, misspelled = ('train.only=decoder',), ('train.only=decodr', 'continue_from=x')
    message = 'train.only=decoder: the other parts of a new model would never be trained'
    with pytest.raises(ConfigError, match=message), solver_of(runs, *fresh):
        pass
    message = 'train.only=decodr: expected parts: encoder, decoder, quantizer; did you mean'
    with pytest.raises(ConfigError, match=message), solver_of(runs, *misspelled):
        pass


@pytest.mark.parametrize('number', [2, 5])
def test_another_number_of_codebooks_is_cut_or_starts_on_the_residual(
    runs, trained, caplog, number
):
    caplog.set_level(logging.INFO)
    source = CompressionSolver.model_from_checkpoint(trained['compact'])
    entries = source.quantizer.codebooks.embed
    with solver_of(runs, f'rvq.n_q={number}', 'adversarial.warmup=0') as solver:
        solver.initialize_from(str(trained['compact']))
        assert f'model changed: rvq.n_q={number} (checkpoint: 3)' in caplog.text
        assert 'adapted or new: 1 (quantizer.codebooks.embed [3, 16, 8] -> ' in caplog.text
        books = solver.model.quantizer.codebooks
        kept = min(number, 3)
        assert torch.equal(books.embed[:kept], entries[:kept])
        assert books.inited.tolist() == [1] * kept + [0] * (number - kept)
        codes = encoded(solver.model)
        assert torch.equal(codes[:, :kept], encoded(source)[:, :kept])
        solver.model.train()
        solver.run_step(batch(0))
        assert books.inited.all()
        if number > 3:  # each new codebook removes a part of what the others left
            solver.model.eval()
            latents = solver.model.encode_latent(batch(0))[0]
            errors = [
                (latents - solver.model.quantizer.decode(codes[:, :n])).square().mean()
                for codes in [encoded(solver.model, 0)]
                for n in (3, 5)
            ]
            assert errors[1] < 0.7 * errors[0], errors


def test_another_sample_rate_is_named_and_the_weights_are_kept(runs, trained, caplog):
    caplog.set_level(logging.INFO)
    source = CompressionSolver.model_from_checkpoint(trained['compact'])
    with solver_of(runs, 'sample_rate=24000') as solver:
        solver.initialize_from(str(trained['compact']))
        assert 'model changed: sample_rate=24000 (checkpoint: 16000)' in caplog.text
        assert torch.equal(encoded(solver.model), encoded(source))


def test_a_decoder_of_a_higher_rate_keeps_the_layers_that_fit(runs, trained, caplog):
    caplog.set_level(logging.INFO)
    source = CompressionSolver.model_from_checkpoint(trained['compact'])
    overrides = (
        f'continue_from={trained["compact"]}',
        'train.only=decoder',
        'output_sample_rate=32000',
        'decoder.ratios=[8,5,4,2,2]',
        'decoder.n_filters=1',
        'adversarial.warmup=0',
    )
    message = 'decoder.n_filters=1: the checkpoint has 2'
    with pytest.raises(ConfigError, match=message), solver_of(runs, *overrides) as solver:
        solver.initialize_from(str(trained['compact']))
    with solver_of(runs, *overrides, 'finetune.fresh=[decoder]') as solver:
        solver.prepare()
        for text in ('output_sample_rate=32000 (checkpoint: 16000)', 'new weights: '):
            assert text in caplog.text
        ours, theirs = solver.model.decoder.model, source.decoder.model
        assert torch.equal(ours[0].conv.conv.weight, theirs[0].conv.conv.weight)
        assert torch.equal(ours[9].convtr.convtr.weight, theirs[9].convtr.convtr.weight)
        assert torch.equal(encoded(solver.model), encoded(source))
        solver.model.train()
        high = batch(0).repeat_interleave(2, dim=-1)
        metrics = solver.run_step(high)
        assert metrics['grad_norm'].isfinite()
        solver.check_frozen()
        assert torch.equal(encoded(solver.model), encoded(source))
        assert solver.model(high).wav.shape == high.shape
