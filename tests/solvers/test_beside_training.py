"""Failures besides training, of samples, metrics and trackers, never end a run."""

import json
import logging
import math
import os

import numpy as np
import pytest
import soundfile
import torch

from audiocodec.evaluation import Codec
from audiocodec.run import checkpoint
from audiocodec.run.averager import Averager
from audiocodec.utils.config import ConfigError
from audiocodec.utils.errors import RunError

pytestmark = pytest.mark.slow

STAGES = [
    'evaluate.every=1',
    'generate.every=1',
    'dataset.evaluate.num_samples=3',
    'dataset.generate.num_samples=3',
    'dataset.generate.batch_size=2',
    'dataset.generate.segment_duration=0.5',
]
NAMES = [
    b'plain',
    b'two words',
    b'-dash',
    'café 音 🎵'.encode(),
    b'caf\xe9',
    b'two\nlines',
    b'x' * 240,
    b'a.b',
]


@pytest.fixture
def names(tmp_path):
    """Create a folder of files with unusual names; two files in different folders share one."""
    folder = tmp_path / 'names'
    (folder / 'sub').mkdir(parents=True)
    wav = 0.05 * np.random.default_rng(0).standard_normal(8000)
    for name in [*NAMES, b'sub/plain']:
        soundfile.write(os.fsencode(folder) + b'/' + name + b'.wav', wav, 16000)
    return folder


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def run(solver):
    solver.run()
    assert len(solver.history) == solver.cfg.optim.epochs
    assert checkpoint.load_checkpoint(solver.checkpoint_path)['epoch'] == solver.cfg.optim.epochs
    return solver


def curve(solver, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(solver.folder / 'tensorboard'), size_guidance={'scalars': 0})
    found.Reload()
    return [(point.step, point.value) for point in found.Scalars(name)]


def test_samples_of_files_with_any_name_are_written(make_solver, names, caplog):
    solver = run(
        make_solver(
            'generate.every=1',
            f'datasource.generate={names}',
            'dataset.generate.num_samples=9',
            'evaluate.every=null',
            'dataset.generate.segment_duration=null',
            'dataset.generate.batch_size=4',
            'logging.tensorboard=true',
            'logging.tensorboard_items=9',
        )
    )
    found = sorted(os.listdir(os.fsencode(solver.folder / 'samples' / 'epoch_1')))
    kinds = [b'.reconstruction.wav', b'.reference.wav']
    stems = [name.removesuffix(kinds[0]) for name in found[::2]]
    assert found == [stem + kind for stem in stems for kind in kinds]
    assert [stem[:4] for stem in stems] == [f'{index:03d}_'.encode() for index in range(9)]
    rest = {stem[4:] for stem in stems}
    assert len(rest) == 8  # two files are called the same
    unchanged = {b'plain', b'two words', b'-dash', 'café 音 🎵'.encode(), b'a.b'}
    assert rest > unchanged
    assert sorted(stem[:-8] for stem in rest - unchanged) == [
        b'caf_-',
        b'two_lines-',
        b'x' * 71 + b'-',
    ]
    assert warnings_of(caplog) == []
    assert not solver.tracker.failures.counts


def test_a_full_disk_for_samples_is_one_warning(make_solver, small_disk, caplog):
    (small_disk / 'other').write_bytes(bytes(2**21 - 4096))
    solver = run(make_solver(*STAGES, f'generate.path={small_disk}', 'optim.epochs=2'))
    found = warnings_of(caplog)
    assert len(found) == 2
    assert found[0].startswith('writing a sample failed, the run continues: OSError: ')
    assert '.reference.wav: could not be written (0.0 MB free on the disk)' in found[0]
    assert found[1] == 'failures besides training: writing a sample (6x)'
    assert [set(stages) for stages in solver.history] == [
        {'train', 'valid', 'evaluate', 'generate'}
    ] * 2
    assert [path.name for path in small_disk.rglob('*') if path.is_file()] == ['other']


def test_a_file_in_place_of_the_folder_of_samples_is_one_warning(make_solver, caplog):
    solver = make_solver(*STAGES)
    (solver.folder / 'samples').write_text('')
    with caplog.at_level(logging.INFO):
        run(solver)
    assert warnings_of(caplog)[0].startswith(
        'writing a sample failed, the run continues: NotADirectoryError: '
    )
    assert f'0 of 3 samples written to {solver.folder}/samples/epoch_1' in caplog.messages


def test_one_sample_that_fails_leaves_the_others(make_solver, caplog):
    solver = make_solver(*STAGES)
    name = 'samples/epoch_1/000_{}.reference.wav'
    stem = os.path.basename(solver.dataloaders['generate'].dataset[0][1].meta.path).rsplit('.', 1)[
        0
    ]
    (solver.folder / name.format(stem) / 'in the way').mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        run(solver)
    assert f'2 of 3 samples written to {solver.folder}/samples/epoch_1' in caplog.messages
    assert len(list((solver.folder / 'samples/epoch_1').glob('*.reconstruction.wav'))) == 2


@pytest.mark.parametrize(
    ('stage', 'kind'), [('evaluate', 'evaluating'), ('generate', 'generating')]
)
def test_a_batch_that_does_not_fit_into_memory_is_left_out(
    make_solver, monkeypatch, caplog, stage, kind
):
    solver = make_solver(*STAGES)
    plain = Codec.reconstruct

    def reconstruct(*arguments):
        if solver._current_stage == stage:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return plain(*arguments)

    monkeypatch.setattr(Codec, 'reconstruct', reconstruct)
    run(solver)
    assert (
        f'{kind} a batch failed, the run continues: OutOfMemoryError: CUDA out of memory'
        in caplog.messages
    )
    assert ('mel' in solver.history[0]['evaluate']) == (stage == 'generate')
    assert len(list((solver.folder / 'samples/epoch_1').glob('*.wav'))) == (
        6 if stage == 'evaluate' else 0
    )


def test_a_tracker_that_cannot_be_written_is_a_warning(make_solver, caplog):
    solver = make_solver('logging.tensorboard=true')
    (solver.folder / 'tensorboard').write_text('')
    run(solver)
    assert [text.split(':')[0] for text in warnings_of(caplog)] == [
        'TensorBoard failed, the run continues'
    ]


def test_a_bad_batch_that_cannot_be_kept_is_a_part_of_its_warning(make_solver, caplog):
    solver = make_solver()
    (solver.folder / 'nonfinite').write_text('')
    plain = solver.run_step
    solver.run_step = lambda wav: plain(wav * (math.nan if solver.updates == 2 else 1.0))
    run(solver)
    assert solver.history[0]['train']['skipped'] == 0.25
    (text,) = warnings_of(caplog)
    assert text.startswith('update 3 was skipped: ')
    assert 'not finite; its batch could not be saved (NotADirectoryError: ' in text


def test_points_within_an_epoch_are_means_of_the_updates_since_the_last(make_solver):
    overrides = [
        'logging.tensorboard=true',
        'optim.updates_per_epoch=5',
        'checkpoint.every_updates=null',
    ]
    solver = run(make_solver(*overrides, 'logging.every_updates=1', 'optim.epochs=2'))
    every = [value for _, value in curve(solver, 'updates/l1')]
    assert [step for step, _ in curve(solver, 'updates/l1')] == list(range(1, 11))
    assert np.mean(every[:5]) == pytest.approx(solver.history[0]['train']['l1'], rel=1e-6)
    assert [step for step, _ in curve(solver, 'train/l1')] == [5, 10]
    assert [step for step, _ in curve(solver, 'valid/mel')] == [5, 10]
    assert curve(solver, 'updates/lr') == [(step, pytest.approx(6e-3)) for step in range(1, 11)]
    other = run(
        make_solver(
            *overrides,
            'logging.every_updates=2',
            'optim.epochs=2',
            'optim.lr=6.0e-3',
            'seed=2036',
            f'dora.dir={solver.folder}/other',
        )
    )
    expected = [
        (2, every[:2]),
        (4, every[2:4]),
        (6, every[5:6]),
        (8, every[6:8]),
        (10, every[8:10]),
    ]
    assert curve(other, 'updates/l1') == [
        (step, pytest.approx(np.mean(part))) for step, part in expected
    ]


def test_a_stage_alone_is_labelled_with_the_epoch_of_its_weights(make_solver, tmp_path):
    stage = [*STAGES, 'logging.tensorboard=true', 'execute_only=generate']
    solver = make_solver(*stage)
    solver.run()
    assert os.listdir(solver.folder / 'samples') == [
        'epoch_0'
    ]  # of the weights before any training
    run(make_solver('logging.tensorboard=true'))
    for only, name in (('generate', None), ('evaluate', 'evaluate/mel'), ('valid', 'valid/mel')):
        solver = make_solver(*stage[:-1], f'execute_only={only}')
        solver.run()
        assert solver.epoch == 1
        if name is not None:
            assert {step for step, _ in curve(solver, name)} == {4}
    assert sorted(os.listdir(solver.folder / 'samples')) == ['epoch_0', 'epoch_1']
    inside = make_solver('optim.epochs=2', 'optim.updates_per_epoch=4')
    assert inside.restore()
    inside.batches = 2  # a checkpoint inside the second epoch
    inside.save_checkpoint()
    make_solver(*stage).run()
    assert sorted(os.listdir(solver.folder / 'samples')) == ['epoch_0', 'epoch_1', 'epoch_2']


def test_a_stage_alone_that_fails_is_an_error(make_solver):
    run(make_solver())
    solver = make_solver(*STAGES, 'execute_only=generate')
    (solver.folder / 'samples').write_text('')
    with pytest.raises(RunError, match=r'execute_only=generate: failed: writing a sample \(3x\)'):
        solver.run()
    solver = make_solver(*STAGES, 'execute_only=evaluate')
    solver.metrics.metrics['mel'].score = None
    with pytest.raises(RunError, match=r'execute_only=evaluate: failed: metric mel \(3x\)'):
        solver.run()


def test_figures_are_read_from_the_device_when_a_point_is_due_alone(make_solver, monkeypatch):
    reads = []
    plain = Averager._read_sums
    monkeypatch.setattr(
        Averager, '_read_sums', lambda self: reads.append(solver.updates) or plain(self)
    )
    solver = make_solver(
        'logging.tensorboard=true',
        'logging.every_updates=4',
        'logging.log_updates=1',
        'logging.log_seconds=0',
        'optim.updates_per_epoch=8',
        'valid.every=null',
    )
    run(solver)
    assert reads == [4, 8, 8, 8]  # two points, the line of the log, the means of the epoch


def test_evaluation_at_several_rates_writes_the_scores_of_every_item(make_solver):
    solver = run(make_solver(*STAGES, 'evaluate.kbps=[0.2,0.4]', 'evaluate.metrics.snr=true'))
    metrics = solver.history[0]['evaluate']
    assert [name for name in metrics if name != 'duration'] == [
        f'{name}{suffix}'
        for suffix in ('_0.2kbps', '', '_0.4kbps')
        for name in ('sisnr', 'mel', 'snr')
    ]
    assert metrics['mel'] == metrics['mel_0.4kbps'] != metrics['mel_0.2kbps']
    lines = (solver.folder / 'evaluate' / 'epoch_1' / 'rows.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row['item'], row['rate']) for row in rows] == [
        (item, rate) for item in range(3) for rate in (0.2, 0.4)
    ]
    mean = sum(row['mel'] for row in rows if row['rate'] == 0.4) / 3
    assert metrics['mel'] == pytest.approx(mean)


def test_a_rate_that_the_model_does_not_have_is_an_error_before_training(make_solver):
    with pytest.raises(ConfigError, match=r'evaluate\.kbps=\[0\.01\]: .* use one of 0\.2'):
        make_solver('evaluate.kbps=[0.01]')
