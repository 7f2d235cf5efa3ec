import json

import pytest
from reports import write_evaluation, write_run

from audiocodec.report.collect import collect


def test_an_evaluation_has_rows_and_items_with_scores(tmp_path):
    content = collect([str(write_evaluation(tmp_path / 'a'))])
    assert len(content.rows) == 9
    assert list(content.metrics) == ['mel', 'sisnr']
    assert [item.title for item in content.items] == ['item_0', 'item_1', 'item_2']
    versions = content.items[1].versions
    assert [version.label for version in versions] == ['reference', 'ours@3', 'ours@6', 'Opus@6']
    assert versions[2].scores == {'mel': 1.1, 'sisnr': -1.0}
    assert content.items[0].versions[1].scores == {'mel': 0.0}  # without a score of the other
    assert all(version.path.is_file() for version in versions)


def test_evaluations_of_the_same_items_stand_side_by_side(tmp_path):
    one = write_evaluation(tmp_path / 'one')
    other = write_evaluation(tmp_path / 'other', systems=[('ours', 3.0), ('theirs', 3.0)])
    content = collect([str(one), str(other)])
    assert len(content.items) == 3
    assert [version.label for version in content.items[0].versions] == [
        'reference',
        'ours@3',
        'ours@6',
        'Opus@6',
        'other/ours@3',
        'theirs@3',
    ]
    assert {row['system'] for row in content.rows} == {'ours', 'Opus', 'other/ours', 'theirs'}


def test_runs_have_curves_and_the_samples_of_their_last_epoch(tmp_path):
    runs = [write_run(tmp_path / name, value=value) for name, value in (('x', 1.0), ('y', 2.0))]
    content = collect([f'first={runs[0]}', str(runs[1])])
    assert [run.name for run in content.runs] == ['first', 'y']
    assert content.runs[0].updates == [1, 2, 3]  # epochs, without a checkpoint
    assert content.runs[1].stages['valid']['mel'] == [4.0, 2.0, pytest.approx(4 / 3)]
    assert content.runs[0].stages['valid']['sisnr'] == [None, None, None]
    (item,) = content.items
    assert item.title == 'a.b'
    assert [version.label for version in item.versions] == ['reference', 'first', 'y']
    assert 'epoch_3' in str(item.versions[2].path)


@pytest.mark.slow
def test_updates_and_scores_of_a_real_run(make_solver):
    solver = make_solver('optim.epochs=2', 'evaluate.every=1', 'dataset.evaluate.num_samples=2')
    solver.run()
    content = collect([str(solver.folder)])
    (run,) = content.runs
    assert run.updates == [4, 8]
    assert run.stages['valid']['mel'] == [stages['valid']['mel'] for stages in solver.history]
    assert [row['item'] for row in content.rows] == [0, 1]
    rows = (solver.folder / 'evaluate/epoch_2/rows.jsonl').read_text().splitlines()
    assert content.rows[0]['mel'] == json.loads(rows[0])['mel']
    assert content.metrics['sisnr']['unit'] == 'dB'


def test_what_is_neither_is_refused(tmp_path):
    with pytest.raises(ValueError, match='expected a folder of `audiocodec evaluate`'):
        collect([str(tmp_path)])
    with pytest.raises(ValueError, match="'0badc0de': expected a folder"):
        collect(['0badc0de'])
