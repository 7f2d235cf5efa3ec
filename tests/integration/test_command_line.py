"""The main job through the command line: train, interrupt, resume, evaluate, generate, compact,
load back; alone and with two workers."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import forked
import pytest
import soundfile
import torch
from forked import Forked

from audiocodec import train
from audiocodec.models import CompressionModel
from audiocodec.models.export import compact
from audiocodec.run import checkpoint
from audiocodec.solvers import CompressionSolver
from audiocodec.utils.config import ConfigError
from audiocodec.utils.errors import RunError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
# small, but with everything on: adversary, balancer, q_dropout, dead codes, averaged model, loading
# processes
RECIPE = [
    'solver=compression/debug',
    'adversarial=msstftd',
    'adversarial.discriminators.msstftd.filters=2',
    'device=cpu',
    'dataset.batch_size=4',
    'dataset.segment_duration=0.5',
    'dataset.num_workers=1',
    'optim.updates_per_epoch=4',
    'dataset.valid.num_samples=6',
    'dataset.evaluate.num_samples=3',
    'dataset.generate.num_samples=3',
    'dataset.generate.batch_size=2',
    'dataset.generate.segment_duration=1.0',
    'rvq.n_q=3',
    'rvq.bins=32',
    'optim.lr=1e-3',
    'checkpoint.save_every=1',
    'checkpoint.keep_last=2',
    'num_threads=1',
]


def environment(folder):
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ('USER', 'LOGNAME', 'USERNAME')
    }
    return {**kept, 'AUDIOCODEC_DORA_DIR': str(folder), 'OMP_NUM_THREADS': '1'}


def dora(folder, *arguments):
    return forked.run(['-m', 'dora', *arguments], cwd=ROOT, env=environment(folder), timeout=400)


def run(folder, *overrides, workers=None):
    distributed = [] if workers is None else ['-d', f'--ddp_workers={workers}']
    done = dora(folder, 'run', *distributed, '--', *RECIPE, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def experiment(folder):
    (found,) = (folder / 'xps').iterdir()
    return found


def states(folder):
    return checkpoint.load_checkpoint(experiment(folder) / 'checkpoint.th')


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp('uninterrupted')
    done = run(folder, 'optim.epochs=3', 'evaluate.every=3', 'generate.every=3')
    return folder, done


def test_a_run_leaves_everything_behind(uninterrupted):
    folder, done = uninterrupted
    xp = experiment(folder)
    names = {path.name for path in xp.iterdir()}
    assert {
        'checkpoint.th',
        'checkpoint_2.th',
        'checkpoint_3.th',
        'history.json',
        'solver.log.0',
        'tensorboard',
        'samples',
    } <= names
    assert 'checkpoint_1.th' not in names  # keep_last=2
    history = json.loads((xp / 'history.json').read_text())
    assert [sorted(stages) for stages in history] == [['train', 'valid']] * 2 + [
        ['evaluate', 'generate', 'train', 'valid']
    ]
    assert {
        'l1',
        'msspec',
        'mel',
        'sisnr',
        'adv_msstftd',
        'feat_msstftd',
        'd_msstftd',
        'commitment',
        'grad_norm',
        'codebook_usage',
        'lr',
    } <= set(history[0]['train'])
    assert {'sisnr', 'mel'} <= set(history[2]['evaluate'])
    assert 'Epoch 3 train  loss ' in (xp / 'solver.log.0').read_text()
    assert '\x1b' not in (xp / 'solver.log.0').read_text()
    assert xp.name in done.stderr


def test_generated_pairs_lie_side_by_side(uninterrupted):
    folder = experiment(uninterrupted[0]) / 'samples' / 'epoch_3'
    names = sorted(path.name for path in folder.iterdir())
    stems = sorted({name.split('.')[0] for name in names})
    assert names == [
        f'{stem}.{kind}.wav' for stem in stems for kind in ('reconstruction', 'reference')
    ]
    assert len(stems) == 3
    for stem in stems:
        pair = [
            soundfile.info(folder / f'{stem}.{kind}.wav')
            for kind in ('reference', 'reconstruction')
        ]
        assert pair[0].frames == pair[1].frames == 16000
        assert pair[0].samplerate == 16000


def test_tensorboard_holds_scalars_audio_and_images(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(experiment(uninterrupted[0]) / 'tensorboard'), size_guidance={'scalars': 0}
    )
    events.Reload()
    tags = events.Tags()
    assert len(events.Scalars('valid/mel')) == 3
    assert sum(tag.endswith('reconstruction/audio') for tag in tags['audio']) == 3
    assert sum(tag.endswith('reference/spectrogram') for tag in tags['images']) == 3


def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, assert_equal):
    process = Forked(
        ['-m', 'dora', 'run', '--', *RECIPE, 'optim.epochs=3'], ROOT, environment(tmp_path)
    )
    end = time.monotonic() + 300
    while not list(tmp_path.glob('xps/*/checkpoint.th')) and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= len(states(tmp_path)['state']['history']) < 3
    done = run(tmp_path, 'optim.epochs=3')
    assert 'Epoch 1 train  loss ' in done.stderr  # the past is replayed in the log
    whole, resumed = states(uninterrupted[0])['state'], states(tmp_path)['state']
    for history in (whole['history'], resumed['history']):  # the two runs evaluate at other times
        for stages in history:
            stages.pop('evaluate', None), stages.pop('generate', None)
    assert_equal(resumed, whole)


def test_single_stages_run_on_the_last_checkpoint(uninterrupted, assert_equal):
    folder, _ = uninterrupted
    before = states(folder)
    done = run(folder, 'optim.epochs=3', 'execute_only=evaluate')
    assert 'Epoch 3 evaluate  mel ' in done.stderr
    done = run(folder, 'optim.epochs=3', 'execute_only=generate', 'generate.path=elsewhere')
    assert len(list((experiment(folder) / 'elsewhere').rglob('*.reconstruction.wav'))) == 3
    assert_equal(states(folder), before)


def test_export_loads_back_with_the_averaged_weights(uninterrupted, tmp_path, monkeypatch):
    xp = experiment(uninterrupted[0])
    path = compact.export_encodec(xp / 'checkpoint.th', tmp_path / 'compression_state_dict.bin')
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(uninterrupted[0]))
    monkeypatch.chdir(tmp_path)
    model = CompressionModel.get_pretrained(str(path))
    wav = torch.randn(2, 1, 7777, generator=torch.Generator().manual_seed(0)) * 0.1
    codes, scale = model.encode(wav)
    assert scale is None
    for source in (f'//sig/{xp.name}', xp, xp / 'checkpoint.th', path):
        other = CompressionSolver.model_from_checkpoint(source)
        assert torch.equal(other.encode(wav)[0], codes)
        assert torch.equal(other.decode(codes), model.decode(codes))
    averages = states(uninterrupted[0])['state']['ema']['averages']
    assert torch.equal(
        model.state_dict()['quantizer.codebooks.embed'], averages['quantizer.codebooks.embed']
    )
    assert 'datasource' not in checkpoint.load(path)['config']


def test_weights_of_another_run_start_a_new_one(uninterrupted, tmp_path):
    xp = experiment(uninterrupted[0])
    done = run(tmp_path, f'continue_from={xp}', 'optim.lr=1e-5', 'optim.epochs=1')
    assert 'continuing from' in done.stderr
    first, source = (
        json.loads((folder / 'history.json').read_text()) for folder in (experiment(tmp_path), xp)
    )
    assert first[0]['train']['msspec'] < source[1]['train']['msspec'] < source[0]['train']['msspec']


def test_two_workers_train_resume_evaluate_and_generate(tmp_path):
    run(tmp_path, 'optim.epochs=1', workers=2)
    run(tmp_path, 'optim.epochs=2', 'evaluate.every=2', 'generate.every=2', workers=2)
    xp = experiment(tmp_path)
    history = json.loads((xp / 'history.json').read_text())
    assert len(history) == 2
    assert {'sisnr', 'mel'} <= set(history[1]['evaluate'])
    assert len(list((xp / 'samples' / 'epoch_2').glob('*.reconstruction.wav'))) == 3
    CompressionSolver.model_from_checkpoint(xp / 'checkpoint.th')


# Found before anything runs; those whose number is in ON_THE_COMMAND_LINE are typed, the others
# called.
ON_THE_COMMAND_LINE = (0, 4)
BAD = [
    (['solver=compression/nothing'], 'no such option'),
    (['dataset.bach_size=8'], "did you mean 'dataset.batch_size'?"),
    (['dset=audio/default'], 'datasource.train is missing'),
    (['datasource.train=EMPTY'], 'EMPTY'),
    (['datasource.train=BROKEN.jsonl'], 'BROKEN.jsonl, line 2: not JSON'),
    (['datasource.min_sample_rate=96000'], 'no file has datasource.min_sample_rate=96000 Hz'),
    (['channels=2', 'datasource.max_channels=1'], 'datasource.max_channels=1'),
    (['rvq.n_q=0'], 'rvq.n_q=0'),
    (['encoder.ratios=[8,5,4]'], 'hop_length must be the same in all parts'),
    (['continue_from=NOTES.th'], 'NOTES.th'),
    (['evaluate.metrics.visqol_binary=true', 'metrics.visqol_binary.bin=EMPTY'], 'EMPTY'),
]


@pytest.mark.parametrize('number', range(len(BAD)), ids=lambda number: BAD[number][0][0])
def test_bad_input_is_one_message(tmp_path, monkeypatch, number):
    overrides, expected = BAD[number]
    (tmp_path / 'EMPTY').mkdir()
    (tmp_path / 'BROKEN.jsonl').write_text(
        '{"path": "x.wav", "duration": 1.0, "sample_rate": 16000}\nnot json\n'
    )
    (tmp_path / 'NOTES.th').write_text('not a checkpoint')
    placed = [
        override.replace('=EMPTY', f'={tmp_path}/EMPTY')
        .replace('=BROKEN', f'={tmp_path}/BROKEN')
        .replace('=NOTES', f'={tmp_path}/NOTES')
        for override in overrides
    ]
    if number in ON_THE_COMMAND_LINE:
        done = dora(tmp_path / 'runs', 'run', '--', *RECIPE, *placed)
        assert done.returncode == 1
        assert expected in done.stderr
        assert 'Traceback' not in done.stderr
    else:
        monkeypatch.setattr(sys, 'argv', ['dora', *RECIPE, *placed, f'dora.dir={tmp_path}/runs'])
        with pytest.raises((ConfigError, RunError)) as error:
            train.main()
        assert expected in str(error.value)
    assert not list((tmp_path / 'runs').rglob('checkpoint*.th'))


def test_a_grid_is_listed_and_known_without_a_cluster(tmp_path):
    done = dora(tmp_path, 'grid', 'compression.debug', '--dry_run', '--init')
    assert done.returncode == 0, done.stderr
    experiments = list((tmp_path / 'xps').iterdir())
    assert len(experiments) == 3
    assert all(xp.name in done.stdout for xp in experiments)
    assert 'n_q=4' in done.stdout
