import csv
import json

from audiocodec.evaluation.rows import RowFile, audio_name, label, score_columns, write_csv
from audiocodec.metrics import Score


def row(item, **values):
    return {'system': 'a', 'rate': 3.0, 'item': item, **values}


def test_rows_are_appended_and_read_back(tmp_path):
    path = tmp_path / 'new' / 'rows.jsonl'
    RowFile(path).add([row(0, mel=1.5), row(1, mel=None)])
    RowFile(path).add([row(2)])
    found = RowFile(path).rows
    assert list(found) == [('a', 3.0, 0), ('a', 3.0, 1), ('a', 3.0, 2)]
    assert found['a', 3.0, 1] == row(1, mel=None)


def test_what_was_cut_short_is_dropped(tmp_path):
    path = tmp_path / 'rows.jsonl'
    file = RowFile(path)
    file.add([row(0), row(1)])
    whole = path.read_bytes()
    for cut in (1, 5, len(whole) // 2 - 1):
        path.write_bytes(whole[:-cut])
        damaged = path.read_bytes()
        again = RowFile(path)
        assert path.read_bytes() == damaged  # reading changes nothing: another may be writing
        assert list(again.rows) == [('a', 3.0, 0)]
        again.add([row(1)])
        assert path.read_bytes() == whole


def test_a_table_has_a_column_for_everything(tmp_path):
    reasons = {'pesq': 'too short', 'stoi': 'silent'}
    write_csv(tmp_path / 'rows.csv', [row(0, mel=1), row(1, pesq=None, unscored=reasons)])
    with open(tmp_path / 'rows.csv', newline='') as file:
        first, second = csv.DictReader(file)
    assert first == {
        'system': 'a',
        'rate': '3.0',
        'item': '0',
        'mel': '1',
        'pesq': '',
        'unscored': '',
    }
    assert second['unscored'] == 'pesq: too short; stoi: silent'


def test_scores_become_columns_that_json_can_hold():
    scores = {'mel': Score(0.5), 'pesq': Score(float('nan'), 'too short')}
    columns = score_columns(scores)
    assert columns == {'mel': 0.5, 'pesq': None, 'unscored': {'pesq': 'too short'}}
    json.dumps(columns, allow_nan=False)
    assert score_columns({'mel': Score(0.5)}) == {'mel': 0.5}


def test_files_are_named_by_system_and_rate():
    assert label('a.b', 7.752) == 'a.b@7.752'
    assert audio_name(label('a.b', 6.0)) == 'a.b@6.flac'
    assert audio_name(label('a.b', 7.5)) == 'a.b@7.5.flac'
