import soundfile
from encoders import WILD, sweep

from audiocodec.data.readers import ogg
from audiocodec.data.readers.base import file_key


def test_parts_of_a_chained_file():
    path = WILD / 'chained.ogg'
    size = path.stat().st_size
    first, second = ogg.links(file_key(str(path)))
    assert (first.begin, second.end) == (0, size)
    assert first.end == second.begin == size // 2


def test_other_files_have_one_part(tmp_path):
    path = tmp_path / 'a.ogg'
    soundfile.write(path, sweep(20.0, 24000), 24000)
    assert ogg.links(file_key(str(path))) == [ogg.Link(0, path.stat().st_size)]
    path.write_bytes(path.read_bytes()[:-1000])
    assert len(ogg.links(file_key(str(path)))) == 1
    path.write_bytes(b'no pages')
    assert len(ogg.links(file_key(str(path)))) == 1


def test_the_last_page_is_measured(tmp_path):
    path = tmp_path / 'a.ogg'
    soundfile.write(path, sweep(20.0, 24000), 24000)
    last, before = list(ogg.pages_at_the_end(path))[:2]
    assert last.end == 480000
    assert ogg.samples_in_last_page(path) == last.end - before.end > 0
    soundfile.write(path, sweep(0.01, 24000), 24000)
    assert ogg.samples_in_last_page(path) > 0
