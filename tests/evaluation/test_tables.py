import json

from audiocodec.evaluation.tables import (
    summary_table,
    system_lines,
    token_table,
    unscored_lines,
    write_tables,
)

ROW = {
    'system': 'tiny',
    'rate': 3.0,
    'items': 10,
    'kbps': 3.123,
    'encode_speed': 12.3,
    'decode_speed': None,
    'mel': 0.5,
    'mel_median': 0.4,
    'mel_low': 0.3,
    'mel_high': 0.7,
    'mel_unscored': 2,
    'stable_shift': 0.25,
}
METRICS = {'mel': {'description': 'Mel distance', 'unit': '', 'higher_is_better': False}}


def test_the_table_has_intervals_medians_and_what_is_missing():
    lines = summary_table([ROW], METRICS).splitlines()
    assert lines[0] == 'mel (lower is better): Mel distance'
    expected = 'tiny@3  3.12  0.5  [0.3, 0.7]  0.4  (2 of 10 without a score)'
    assert ' '.join(lines[2].split()) == ' '.join(expected.split())
    assert lines[-1].split() == ['tiny@3', '12.3', '-']


def test_differences_are_shown_with_a_baseline():
    differences = {'mel_difference': 0.1, 'mel_difference_low': -0.1, 'mel_difference_high': 0.3}
    lines = summary_table([{**ROW, **differences}], METRICS, 'Opus@6').splitlines()
    assert lines[1].endswith('minus Opus@6')
    assert '0.1       [-0.1, 0.3]' in lines[2]


def test_the_table_of_codes_shows_the_worst_level():
    tokens = {
        'system': 'tiny',
        'rate': 3.0,
        'entropy_kbps': 2.5,
        'conditional_kbps': 2.0,
        'usage': [0.9, 0.5],
        'perplexity': [100.0, 20.0],
    }
    line = token_table([tokens], [ROW]).splitlines()[-1]
    assert line.split() == ['tiny@3', '3.00', '2.50', '2.00', '50.0%', '20.0', '25.0%']


def test_reasons_are_counted_and_the_first_item_is_named():
    row = {**ROW, 'path': 'a.wav', 'offset': 1.5, 'unscored': {'pesq': 'too short'}}
    assert unscored_lines([row, {**row, 'path': 'b.wav'}, ROW]) == [
        'pesq has no score for 2 rows: too short, e.g. a.wav at 1.5 s by tiny@3'
    ]


def test_sizes_of_models_are_told():
    systems = {'ours': {'parameters': 14.7e6, 'multiply_adds': 1.86e9}, 'Opus': {'kind': 'Opus'}}
    assert system_lines(systems) == [
        'ours: 14.7 M parameters, 1.86 G multiply-adds per second of audio'
    ]


def test_statistics_of_systems_evaluated_earlier_stay(tmp_path):
    old, new = ({'system': name, 'rate': 3.0, 'frames': 1} for name in 'ab')
    assert write_tables(tmp_path, [ROW], [old]) == [old]
    assert write_tables(tmp_path, [ROW], [new]) == [old, new]
    changed = {**old, 'frames': 2}
    assert write_tables(tmp_path, [ROW], [changed]) == [changed, new]
    assert json.loads((tmp_path / 'tokens.json').read_text()) == [changed, new]


def test_tables_are_written(tmp_path):
    write_tables(tmp_path, [ROW], [])
    assert json.loads((tmp_path / 'summary.json').read_text()) == [ROW]
    assert (tmp_path / 'summary.csv').read_text().splitlines()[0].startswith('system,rate,items')
