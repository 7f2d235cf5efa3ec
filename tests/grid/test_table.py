"""The table of a grid: the latest metrics of each stage that any experiment has."""

import pytest
import treetable as tt

from audiocodec.grid.table import CompressionExplorer

HISTORY = [
    {'train': {'mel': 2.0, 'l1': 0.5}, 'valid': {'mel': 1.9}, 'evaluate': {'mel': 1.8}},
    {'train': {'mel': 1.5, 'l1': 0.4}, 'valid': {'mel': 1.6}},
]


@pytest.fixture
def explorer():
    return CompressionExplorer(lambda launcher: None)


def test_stages_that_skip_epochs_keep_their_last_values(explorer):
    latest = explorer.process_history(HISTORY)
    assert latest['train'] == {'mel': 1.5, 'l1': 0.4, 'epoch': 2}
    assert latest['valid'] == {'mel': 1.6}
    assert latest['evaluate'] == {'mel': 1.8}
    assert explorer.process_history([])['train'] == {}


def test_columns_are_those_that_an_experiment_has(explorer):
    latest = explorer.process_history(HISTORY)
    table = tt.table(groups=explorer.get_grid_metrics())
    text = tt.treetable([latest], table)
    for name in ('epoch', 'l1', 'mel', 'evaluate'):
        assert name in text
    assert 'visqol' not in text
    assert '0.4000' in text
