import json

import pytest
from items import tiny_model, write_items

from audiocodec.cli.main import main
from audiocodec.models.export import export


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp('evaluate')
    write_items(folder / 'items')
    export(tiny_model(), folder / 'tiny.th', 'compact', [str(folder / 'items')])
    return folder


def run(place, out, *arguments):
    data = ['--data', str(place / 'items'), '--out', str(out), '--workers', '1']
    return main(['evaluate', *arguments, *data])


def test_a_model_and_opus_side_by_side(place, tmp_path, capsys):
    model = f'mine={place / "tiny.th"}'
    rates = ['--kbps', '0.15', '0.45', '--opus', '6']
    assert run(place, tmp_path / 'out', model, *rates, '--baseline', 'Opus@6') == 0
    printed = capsys.readouterr().out
    for part in ('mine@0.15', 'mine@0.45', 'Opus@6', 'minus Opus@6', 'entropy', '9 rows in'):
        assert part in printed
    names = {path.name for path in (tmp_path / 'out').iterdir()} - {'.lock'}
    assert names == {
        'audio',
        'codes',
        'evaluation.json',
        'rows.csv',
        'rows.jsonl',
        'summary.csv',
        'summary.json',
        'tokens.json',
    }
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert [(row['system'], row['rate']) for row in summary] == [
        ('mine', 0.15),
        ('mine', 0.45),
        ('Opus', 6.0),
    ]
    assert all(row['mel_low'] <= row['mel'] <= row['mel_high'] for row in summary)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_table(place, tmp_path):
    options = ['--seconds', '0.4', '--items', '5', '--metrics', 'mel', 'snr']
    tables = []
    for name, seed in (('a', '1'), ('b', '1'), ('c', '2')):
        model = str(place / 'tiny.th')
        assert run(place, tmp_path / name, model, *options, '--seed', seed) == 0
        rows = json.loads((tmp_path / name / 'summary.json').read_text())
        tables.append([{k: v for k, v in row.items() if 'speed' not in k} for row in rows])
    assert tables[0] == tables[1] != tables[2]
    assert tables[0][0]['system'] == 'tiny'
    assert tables[0][0]['items'] == 5


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'nothing to evaluate: name a MODEL'),
        (['--opus', '1000'], 'Opus has rates from 6 to 256 kbps, not 1000.0'),
        (['--opus', '6', '--metrics', 'mell'], '--metrics mell: expected all, or of sisnr, mel'),
        (['--opus', '6', '--baseline', 'Opus'], '--baseline Opus: expected SYSTEM@KBPS'),
        (['nowhere.th'], 'nowhere.th'),
    ],
)
def test_bad_arguments_are_one_clear_error(place, tmp_path, capsys, arguments, message):
    assert run(place, tmp_path / 'out', *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert message in error
    assert not (tmp_path / 'out').exists()
