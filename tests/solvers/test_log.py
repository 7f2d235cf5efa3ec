"""What a run says of its epochs."""

import logging

import pytest
import torch

from audiocodec.run.device import peak_memory
from audiocodec.solvers import base


@pytest.fixture
def lines(make_solver, caplog):
    """The lines of an epoch, with overrides."""

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


@pytest.mark.parametrize(('device', 'lines'), [('cuda', 1), ('cpu', 0)])
def test_peak_memory_is_logged_once_it_no_longer_grows(
    make_solver, monkeypatch, caplog, device, lines
):
    """With the figure of a GPU that is not there."""
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda where: 3 * 2**29)
    monkeypatch.setattr(base, 'peak_memory', lambda where: peak_memory(torch.device(device)))
    caplog.set_level('INFO', 'audiocodec')
    make_solver().run()
    found = [line for line in caplog.messages if line.startswith('peak memory')]
    assert found == ['peak memory of an update: 1.50 GiB on cpu'] * lines
