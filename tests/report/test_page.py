import json

import pytest
from reports import write_evaluation, write_run

from audiocodec.cli.main import main
from audiocodec.data import read_audio
from audiocodec.dsp.loudness import loudness
from audiocodec.report import write_report


def data_of(folder):
    text = (folder / 'data.js').read_text()
    return json.loads(text.removeprefix('window.REPORT = ').removesuffix(';\n'))


def test_a_report_is_a_folder_that_needs_nothing_else(tmp_path):
    sources = [str(write_evaluation(tmp_path / 'e')), str(write_run(tmp_path / 'run'))]
    out = tmp_path / 'out'
    write_report(sources, out, title='Ours')
    report = data_of(out)
    assert report['title'] == 'Ours'
    assert [row['system'] for row in report['summary']] == ['ours', 'ours', 'Opus']
    assert report['summary'][1]['mel'] == pytest.approx(1.1)
    assert [run['name'] for run in report['runs']] == ['run']
    assert len(report['items']) == 4
    for item in report['items']:
        for version in item['versions']:
            assert (out / version['audio']).is_file()
            assert (out / version['picture']).read_bytes()[8:12] == b'WEBP'
    page = (out / 'index.html').read_text()
    assert '://' not in page
    for name in ('report.js', 'report.css', 'uPlot.iife.min.js', 'uPlot.min.css', 'uPlot.LICENSE'):
        assert (out / 'static' / name).is_file()


def test_versions_have_the_loudness_of_the_reference(tmp_path):
    out = tmp_path / 'out'
    write_report([str(write_evaluation(tmp_path / 'e', items=1))], out)
    (item,) = data_of(out)['items']
    levels = [loudness(*read_audio(out / version['audio'])) for version in item['versions']]
    assert levels == pytest.approx([levels[0]] * 4, abs=0.05)


def test_a_report_replaces_an_older_one_but_nothing_else(tmp_path):
    source, out = str(write_evaluation(tmp_path / 'e')), tmp_path / 'out'
    write_report([source], out)
    write_report([source], out, items=1)
    assert len(data_of(out)['items']) == 1
    assert len(list((out / 'audio').iterdir())) == 4
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'thesis.txt').touch()
    with pytest.raises(ValueError, match='other is not empty and not a report'):
        write_report([source], other)


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    source = write_evaluation(tmp_path / 'e')
    assert main(['report', str(source), '--out', str(tmp_path / 'out')]) == 0
    assert '9 rows, 3 items to listen to, 0 runs' in capsys.readouterr().out
    assert main(['report', str(tmp_path / 'nowhere'), '--out', str(tmp_path / 'out2')]) == 1
    assert 'expected a folder of `audiocodec evaluate`' in capsys.readouterr().err
