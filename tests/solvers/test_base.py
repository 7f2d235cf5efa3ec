"""The training loop: lines of the log, epochs and stages that are due, errors of the data."""

import logging

import numpy as np
import pytest
import soundfile
import torch

from audiocodec.run.device import peak_memory
from audiocodec.solvers import base
from audiocodec.utils.errors import RunError


@pytest.fixture
def lines(make_solver, caplog):
    """Run an epoch with overrides; return the solver and the lines of its log."""

    def run(*overrides):
        short = ['evaluate.every=1', 'optim.updates_per_epoch=3', 'dataset.evaluate.num_samples=2']
        solver = make_solver(*short, *overrides)
        with caplog.at_level(logging.INFO, 'audiocodec'):
            solver.run()
        return solver, [record.getMessage() for record in caplog.records]

    return run


def names(line):
    return [part.split()[0] for part in line.split('  ')[1:]]


def test_a_stage_is_one_line_of_a_terminal(lines):
    solver, found = lines()
    found = [line for line in found if line.startswith('Epoch 1 ')]
    assert [line.split('  ')[0] for line in found] == [
        'Epoch 1 train',
        'Epoch 1 valid',
        'Epoch 1 evaluate',
    ]
    assert names(found[0]) == ['loss', 'msspec', 'mel', 'sisnr', 'usage', 'it/s', 'wait']
    assert names(found[1]) == ['msspec', 'mel', 'sisnr', 'usage']
    assert names(found[2]) == ['mel', 'sisnr']
    assert max(len(f'11-28 10:59:00 {line}') for line in found) <= 120
    train = solver.history[0]['train']
    assert f'mel {train["mel"]:.4g}  ' in found[0]
    assert (
        f'usage {train["codebook_usage_min"]:.1%}  it/s {train["updates_per_second"]:.4g}  '
        in found[0]
    )
    assert {'usage_1', 'grad_norm', 'd_msstftd_real_acc'} <= train.keys()  # the history has all


def test_metrics_of_a_line_are_chosen_by_name_and_pattern(lines):
    _, found = lines(
        'logging.metrics=[d_*_acc,lr,mel]', 'logging.log_updates=3', 'logging.log_seconds=0'
    )
    (train,) = [line for line in found if line.startswith('Epoch 1 train')]
    assert names(train) == ['d_msstftd_real_acc', 'd_msstftd_fake_acc', 'lr', 'mel']
    within = [line for line in found if line.startswith('Train | Epoch 1')]
    assert [line.split(' | ')[2] for line in within] == ['1/3', '2/3', '3/3']
    assert 'msspec' not in within[2]


def test_short_stages_have_no_lines_within(lines):
    _, found = lines()
    assert [line for line in found if '| Epoch 1' in line] == []


def test_no_metrics_are_no_lines(lines):
    _, found = lines('logging.metrics=[]')
    assert [line for line in found if line.startswith('Epoch 1 ')] == []


@pytest.mark.slow
@pytest.mark.parametrize(('device', 'lines'), [('cuda', 1), ('cpu', 0)])
def test_peak_memory_is_logged_once_it_no_longer_grows(
    make_solver, monkeypatch, caplog, device, lines
):
    """The memory of a GPU is simulated."""
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda where: 3 * 2**29)
    monkeypatch.setattr(base, 'peak_memory', lambda where: peak_memory(torch.device(device)))
    caplog.set_level('INFO', 'audiocodec')
    make_solver().run()
    found = [line for line in caplog.messages if line.startswith('peak memory')]
    assert found == ['peak memory of an update: 1.50 GiB on cpu'] * lines


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / 'audio'
    found.mkdir()
    for number in range(6):
        soundfile.write(
            found / f'{number}.wav',
            0.1 * np.random.default_rng(number).standard_normal(16000),
            16000,
        )
    return found


def overrides(folder):
    return [
        'dset=audio/default',
        *(f'datasource.{split}={folder}' for split in ('train', 'valid', 'evaluate', 'generate')),
    ]


@pytest.mark.slow
def test_skipped_files_are_a_metric(make_solver, folder):
    solver = make_solver(*overrides(folder), 'dataset.batch_size=8')
    assert solver.dataloaders
    (folder / '3.wav').write_bytes(b'broken')  # after it was indexed
    solver.run()
    assert solver.history[0]['train']['skipped_files'] == 1


def test_too_many_bad_files_are_a_message(make_solver, folder):
    solver = make_solver(*overrides(folder), 'dataset.max_bad_fraction=0')
    assert solver.dataloaders
    (folder / '3.wav').write_bytes(b'broken')
    with pytest.raises(
        RunError, match=r'(?s)more than dataset\.max_bad_fraction=0.*3\.wav.*audiocodec doctor'
    ):
        solver.run()


def test_stages_are_due_by_their_interval_and_in_the_last_epoch(make_solver):
    solver = make_solver(
        'optim.epochs=5', 'valid.every=2', 'evaluate.every=3', 'dataset.evaluate.num_samples=2'
    )
    due = []
    for epoch in range(5):
        solver.history[:] = [{}] * epoch
        due.append([stage for stage in solver.STAGES if solver.is_due(stage)])
    train = ['train']
    assert due == [
        train,
        [*train, 'valid'],
        [*train, 'evaluate'],
        [*train, 'valid'],
        [*train, 'valid', 'evaluate'],
    ]


def test_the_position_of_a_run_in_words(make_solver):
    solver = make_solver()
    assert solver._position_text() == 'epoch 1'
    solver.batches = 3
    assert solver._position_text() == 'epoch 1, after batch 3'
    solver._pending_metrics = {'train': {}, 'valid': {}}
    assert solver._position_text() == 'epoch 1, after valid'


def test_a_run_without_loading_repeats_one_batch(make_solver):
    solver = make_solver('benchmark_no_load=true')
    (first, *others) = [wav for wav, _ in solver.training_batches()]
    assert len(others) == 3
    assert all(torch.equal(first, wav) for wav in others)


def test_a_run_that_is_done_says_so(make_solver, caplog):
    make_solver('optim.updates_per_epoch=1').run()
    caplog.clear()
    with caplog.at_level(logging.INFO, 'audiocodec'):
        make_solver('optim.updates_per_epoch=1').run()
    assert 'all 1 epochs are done already, nothing is trained: set optim.epochs=2' in caplog.text
    assert 'resuming at' not in caplog.text


def test_the_evaluate_line_has_every_metric_whatever_the_others_have(make_solver, caplog):
    with caplog.at_level(logging.INFO, 'audiocodec'):
        make_solver(
            'optim.updates_per_epoch=1',
            'evaluate.every=1',
            'dataset.evaluate.num_samples=2',
            'logging.metrics=[g_loss]',
        ).run()
    lines = [text for text in caplog.messages if text.startswith('Epoch 1 ')]
    train, evaluate = lines[0], lines[-1]
    assert [train.split()[2], train.split()[3]] == ['train', 'loss']
    assert len(train.split()) == 5
    assert evaluate.split()[2::2][0] == 'evaluate'
    assert {'sisnr', 'mel'} == set(evaluate.split()[3::2])
