"""Grids and their experiments by name."""

import pytest
from dora import Explorer

from audiocodec import train
from audiocodec.grid.find import find_entries, find_explorer, select

DEBUG = 'compression.debug'


@pytest.fixture(scope='module')
def entries():
    explorer = find_explorer(DEBUG, 'grids')
    return find_entries(train.main, explorer)


def names(entries):
    return [train.main.get_name(entry.xp) for entry in entries]


def test_the_experiments_are_those_that_dora_would_run(entries):
    sigs = [
        train.main.get_xp(['solver=compression/debug', *more]).sig
        for more in ([], ['rvq.q_dropout=false'], ['rvq.n_q=4'])
    ]
    assert [entry.xp.sig for entry in entries] == sigs
    assert {entry.gpus for entry in entries} == {1}


def test_an_experiment_that_a_grid_names_twice_is_run_once():
    def explore(launcher):
        launcher.slurm_(gpus=3)
        launcher('solver=compression/debug')
        launcher({'solver': 'compression/debug'})

    (entry,) = find_entries(train.main, Explorer(explore))
    assert entry.gpus == 3


@pytest.mark.parametrize(
    ('patterns', 'kept'),
    [
        ([], [0, 1, 2]),
        (['1'], [1]),
        (['2', '0'], [2, 0]),
        (['n_q'], [2]),
        (['rvq*=*'], [1, 2]),
        (['rvq', '!dropout'], [2]),
        (['rvq', '1'], [2]),
    ],
)
def test_experiments_are_selected_by_number_and_name(entries, patterns, kept):
    assert select(entries, patterns, train.main) == [entries[index] for index in kept]


@pytest.mark.parametrize(
    ('patterns', 'message'),
    [
        (['3'], r'3: no such experiment \(there are 0 to 2\)'),
        (['n_q=5'], 'n_q=5: no experiment matches .there are: .*rvq.n_q=4'),
    ],
)
def test_a_selection_of_nothing_is_an_error(entries, patterns, message):
    with pytest.raises(ValueError, match=message):
        select(entries, patterns, train.main)


def test_an_unknown_grid_is_an_error_that_lists_the_grids():
    with pytest.raises(
        ValueError,
        match=r'compression\.debgu: no such grid in .*grids \(available: '
        r'compression\.ablation, compression\.codec_24khz, compression\.dac_44khz',
    ):
        find_explorer('compression.debgu', 'grids')


def test_a_file_without_explorer_is_an_error(tmp_path, monkeypatch):
    (tmp_path / 'others').mkdir()
    (tmp_path / 'others' / '__init__.py').touch()
    (tmp_path / 'others' / 'empty.py').write_text('explorer = None\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match='empty: the file has no explorer'):
        find_explorer('empty', 'others')
