from pathlib import Path

import pytest

from audiocodec.data.lists import Line, parse, short


def entries(name, text):
    data = text if isinstance(text, bytes) else text.encode()
    return list(parse(Path(name), data))


def test_lines_are_numbered_as_in_the_file():
    assert entries('a.jsonl', '\n{"path": "x"}\n\n{"path": "y"}\n') == [
        Line(2, {'path': 'x'}),
        Line(4, {'path': 'y'}),
    ]
    assert [line.number for line in entries('a.csv', 'path\nx\ny\n')] == [2, 3]
    assert entries('a.TXT.gz', ' x \n\ny') == [Line(1, {'path': 'x'}), Line(3, {'path': 'y'})]


def test_tables_have_the_columns_of_a_manifest():
    text = 'text,audio_filepath,offset,duration,weight\nhello,x,1.5,2,\n'
    (line,) = entries('a.csv', text)
    assert (line.number, line.entry['path'], line.entry['offset']) == (2, 'x', '1.5')
    assert line.entry['text'] == 'hello'  # for datasource.group_by
    assert 'weight' not in line.entry


def test_names_that_are_not_text_stay_as_they_are():
    (line,) = entries('a.txt', b'caf\xe9.wav\n')
    assert line.entry['path'].encode('utf-8', 'surrogateescape') == b'caf\xe9.wav'


@pytest.mark.parametrize('text', ['{"path"', '[1,', '[' * 100_000])
def test_what_is_not_json_is_a_problem(text):
    (line,) = entries('a.json', text)
    assert line.problem.startswith('not JSON')


def test_values_in_messages_are_short():
    assert short('a') == "'a'"
    assert len(short('a' * 1000)) == 60
