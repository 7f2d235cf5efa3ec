"""Kept copies of checkpoints: of the right epochs, and always complete."""

import logging
import os

import pytest
import torch

from audiocodec.run import checkpoint, kept


def write(folder, epoch):
    path = folder / 'checkpoint.th'
    checkpoint.save({'epoch': epoch, 'state': {'x': torch.full((1000,), epoch)}}, path)
    return path


def kept_epoch(folder, name='checkpoint_best.th'):
    return checkpoint.load(folder / name)['epoch'] if (folder / name).exists() else None


def follow(folder, values, key='valid.mel', higher_is_better=False):
    """The kept epoch after each of several epochs; None stands for one in which the stage did not
    run.
    """
    history, found = [], []
    for epoch, value in enumerate(values, start=1):
        stage, metric = key.split('.')
        history.append({} if value is None else {stage: {metric: value, 'duration': 1.0}})
        kept.keep_best(write(folder, epoch), history, key, higher_is_better)
        found.append(kept_epoch(folder))
    return found


def test_the_best_epoch_is_kept(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert follow(tmp_path, [3.0, 2.0, 2.5, None, float('nan'), 2.0, 1.9]) == [
            1,
            2,
            2,
            2,
            2,
            2,
            7,
        ]
    assert [record.getMessage() for record in caplog.records] == [
        f'best valid.mel so far: {value}, of epoch {epoch}, kept as checkpoint_best.th'
        for value, epoch in (('3', 1), ('2', 2), ('1.9', 7))
    ]
    assert sorted(os.listdir(tmp_path)) == ['checkpoint.th', 'checkpoint_best.th']


def test_of_some_metrics_the_highest_is_the_best(tmp_path):
    assert follow(tmp_path, [3.0, -1.0, 4.0], 'evaluate.sisnr', higher_is_better=True) == [1, 1, 3]


def test_the_existing_copy_is_compared_by_the_current_metric(tmp_path):
    history = [
        {'valid': {'mel': 1.0, 'sisnr': 5.0}},
        {'valid': {'mel': 2.0, 'sisnr': 6.0}},
        {'valid': {'mel': 3.0, 'sisnr': 5.5}},
    ]
    kept.keep_best(write(tmp_path, 1), history[:1], 'valid.mel', False)
    kept.keep_best(
        write(tmp_path, 3), history, 'valid.sisnr', True
    )  # no copy is left of the better epoch 2
    assert kept_epoch(tmp_path) == 3


@pytest.mark.parametrize('content', [b'', b'damaged'])
def test_a_damaged_copy_is_replaced(tmp_path, content):
    (tmp_path / 'checkpoint_best.th').write_bytes(content)
    assert follow(tmp_path, [3.0]) == [1]


def test_a_copy_of_another_run_is_replaced(tmp_path):
    write(tmp_path, 9).rename(tmp_path / 'checkpoint_best.th')
    assert follow(tmp_path, [3.0, 2.0]) == [1, 2]


def test_an_unknown_metric_is_named(tmp_path):
    with pytest.raises(ValueError, match='valid has no metric mos; it has mel, duration'):
        kept.keep_best(
            write(tmp_path, 1), [{'valid': {'mel': 1.0, 'duration': 2.0}}], 'valid.mos', False
        )


def refuse(source, target):
    raise PermissionError(1, 'Operation not permitted')


@pytest.fixture(params=['links', 'copies'])
def links(request, monkeypatch):
    if request.param == 'copies':
        monkeypatch.setattr(os, 'link', refuse)


@pytest.mark.usefixtures('links')
def test_every_few_epochs_one_is_kept(tmp_path):
    for epoch in range(1, 10):
        kept.keep_epoch(write(tmp_path, epoch), epoch, 2, 3)
    names = sorted(os.listdir(tmp_path))
    assert names == ['checkpoint.th', 'checkpoint_4.th', 'checkpoint_6.th', 'checkpoint_8.th']
    assert [kept_epoch(tmp_path, name) for name in names] == [9, 4, 6, 8]
    for every in (None, 0):
        kept.keep_epoch(tmp_path / 'checkpoint.th', 10, every, 1)
    assert sorted(os.listdir(tmp_path)) == names


def test_no_half_copy_is_left_on_a_full_disk(small_disk, monkeypatch):
    monkeypatch.setattr(os, 'link', refuse)
    path = small_disk / 'checkpoint.th'
    path.write_bytes(bytes(2**20 + 2**19))
    with pytest.raises(OSError, match='No space left'):
        kept.keep_epoch(path, 2, 2, None)
    assert os.listdir(small_disk) == ['checkpoint.th']


def test_one_that_cannot_be_deleted_keeps_no_others(tmp_path):
    for epoch in (1, 3):
        (tmp_path / f'checkpoint_{epoch}.th').touch()
    (tmp_path / 'checkpoint_2.th').mkdir()
    with pytest.raises(OSError, match=r'checkpoint_2\.th'):
        checkpoint.prune(tmp_path, 'checkpoint_*.th', 0)
    assert os.listdir(tmp_path) == ['checkpoint_2.th']
