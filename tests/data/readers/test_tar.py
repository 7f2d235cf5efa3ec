"""Audio in tar archives: every format, any place of the archive, damage."""

import contextlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile
from encoders import WILD

from audiocodec.data import read_audio
from audiocodec.data.readers import open_audio, tar

WAV = ('.wav', '.flac', '.ogg', '.mp3')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Audio files of several formats, as name -> content."""
    folder = tmp_path_factory.mktemp('files')
    found = {}
    for index, suffix in enumerate(WAV):
        path = folder / f'{index}{suffix}'
        noise = np.random.default_rng(index).uniform(-0.5, 0.5, (24000 + 480 * index, 2))
        soundfile.write(path, noise, 24000)
        found[f'speaker_{index}/talk{suffix}'] = path.read_bytes()
    return found


def write_tar(path, files):
    """Write an archive as WebDataset does: each audio file is followed by its JSON."""
    with tarfile.open(path, 'w') as archive:
        for name, content in files.items():
            texts = {name: content, f'{name}.json': json.dumps({'name': name}).encode()}
            for member, data in texts.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture
def archive(files, tmp_path):
    return write_tar(tmp_path / 'a.tar', files)


def test_members_are_the_audio_files_in_their_order(archive, files):
    members = tar.list_members(str(archive), WAV)
    assert [member.name for member in members] == list(files)
    data = archive.read_bytes()
    for member in members:
        assert data[member.begin : member.begin + member.size] == files[member.name]
        assert tar.find_member(member.address) == member


def test_segments_are_those_of_the_file(archive, files, tmp_path):
    for member in tar.list_members(str(archive), WAV):
        alone = tmp_path / member.name.replace('/', '_')
        alone.write_bytes(files[member.name])
        whole, rate = read_audio(alone)
        for start, frames in ((0, -1), (1000, 5000), (20000, 10)):
            wav, found = read_audio(member.address, start, frames)
            assert found == rate
            end = whole.shape[1] if frames < 0 else start + frames
            assert (wav - whole[:, start:end]).abs().max() < 1e-6
        part = read_audio(f'{member.address}#t=0.5,0.75')[0]
        assert (part - whole[:, 12000:18000]).abs().max() < 1e-6


def test_a_copy_is_deleted_with_its_reader(archive, monkeypatch, tmp_path):
    (tmp_path / 'copies').mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'copies'))
    with open_audio(tar.list_members(str(archive), WAV)[0].address) as reader:
        assert len(list((tmp_path / 'copies').iterdir())) == 1
        assert reader.path.endswith('/speaker_0/talk.wav')
    assert not list((tmp_path / 'copies').iterdir())


def test_errors_name_the_member(tmp_path, files):
    archive = write_tar(tmp_path / 'a.tar', {'bad.wav': b'no audio' * 99, **files})
    bad, good, *_ = tar.list_members(str(archive), WAV)
    with pytest.raises(ValueError, match=r'a\.tar/\d+\+792/bad\.wav: cannot be read as audio'):
        open_audio(bad.address)
    cut = tmp_path / 'cut.tar'
    cut.write_bytes(archive.read_bytes()[: good.begin + 100])
    address = good._replace(tar=str(cut)).address
    with pytest.raises(ValueError, match=r'cut\.tar/.*talk\.wav: is truncated: the archive ends'):
        open_audio(address)
    with pytest.raises(ValueError, match=r'gone\.tar: cannot be read: .*No such file'):
        open_audio(good._replace(tar=str(tmp_path / 'gone.tar')).address)
    with pytest.raises(ValueError, match=r'cut\.tar: cannot be read as an uncompressed tar: '):
        tar.list_members(str(cut), WAV)


def test_a_compressed_archive_is_refused(tmp_path, files):
    with tarfile.open(tmp_path / 'a.tar', 'w:gz') as archive:
        archive.addfile(tarfile.TarInfo('a.wav'))
    with pytest.raises(ValueError, match=r'a\.tar: cannot be read as an uncompressed tar'):
        tar.list_members(str(tmp_path / 'a.tar'), WAV)


def test_a_folder_that_looks_like_a_member_is_a_folder(tmp_path):
    path = tmp_path / 'a.tar' / '3+4' / 'b.wav'
    path.parent.mkdir(parents=True)
    soundfile.write(path, np.zeros(100), 8000)
    assert tar.find_member(str(path)) is None
    assert open_audio(path).frames == 100


@pytest.mark.parametrize(
    ('source', 'names'),
    [
        ('x-{000..002}.tar', ['x-000.tar', 'x-001.tar', 'x-002.tar']),
        ('{8..10}/{1..1}.tar', ['8/1.tar', '9/1.tar', '10/1.tar']),
        ('s3://bucket/a-{0..1}.tar', ['s3://bucket/a-0.tar', 's3://bucket/a-1.tar']),
        ('s3:/bucket/a.tar', ['s3://bucket/a.tar']),
        ('a.flac', []),
        ('a.jsonl', []),
    ],
)
def test_ranges_name_several_archives(source, names):
    assert tar.expand(source) == names


def test_folders_and_patterns_name_the_archives_that_there_are(tmp_path):
    folder = tmp_path / 'odd [x]'
    folder.mkdir()
    for name in ('b.tar', 'a.tar', 'c.txt'):
        (folder / name).touch()
    expected = [str(folder / 'a.tar'), str(folder / 'b.tar')]
    assert tar.expand(folder) == expected
    assert tar.expand(tmp_path / '*' / '[ab].tar') == expected
    assert tar.expand(expected[0]) == expected[:1]
    with pytest.raises(ValueError, match=r'z\*\.tar: no such archive'):
        tar.expand(tmp_path / 'z*.tar')


def test_a_path_without_its_position_stays_the_same(archive, files, tmp_path):
    other = write_tar(tmp_path / 'other.tar', {'new.wav': b'', **files})
    (tmp_path / 'other.tar').replace(archive)
    del other
    found = {tar.without_position(member.address) for member in tar.list_members(str(archive), WAV)}
    assert found == {f'{archive}/{name}' for name in ('new.wav', *files)}
    assert tar.without_position('a/b.wav') == 'a/b.wav'


class Ranges(BaseHTTPRequestHandler):
    """Answers requests for ranges, as object stores do."""

    def do_GET(self):
        content = self.server.content
        first, last = 0, len(content) - 1
        wanted = self.headers.get('Range')
        if wanted:
            first, _, end = wanted.removeprefix('bytes=').partition('-')
            first, last = int(first), min(int(end or last), last)
        self.send_response(206 if wanted else 200)
        self.send_header('Accept-Ranges', 'bytes')
        self.send_header('Content-Length', str(last + 1 - first))
        if wanted:
            self.send_header('Content-Range', f'bytes {first}-{last}/{len(content)}')
        self.end_headers()
        if self.command == 'GET':
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(content[first : last + 1])

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def server(archive):
    with ThreadingHTTPServer(('127.0.0.1', 0), Ranges) as server:
        server.content = archive.read_bytes()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/a.tar'
        server.shutdown()


def test_an_archive_behind_a_url_is_read_by_ranges(server, archive):
    pytest.importorskip('aiohttp')
    local = tar.list_members(str(archive), WAV)
    remote = tar.list_members(server, WAV)
    assert [member[1:] for member in remote] == [member[1:] for member in local]
    for one, other in zip(remote, local):
        assert (read_audio(one.address)[0] == read_audio(other.address)[0]).all()
    assert tar.size_of(server) == archive.stat().st_size


def test_a_url_without_fsspec_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'fsspec', None)
    with pytest.raises(
        ValueError, match=r"a\.tar: reading URLs needs .*'audiocodec\[webdataset\]'"
    ):
        tar.list_members('s3://bucket/a.tar', WAV)


def test_a_url_that_does_not_answer_is_an_error():
    pytest.importorskip('aiohttp')
    with pytest.raises(ValueError, match=r'http://127\.0\.0\.1:9/a\.tar: cannot be read: '):
        tar.list_members('http://127.0.0.1:9/a.tar', WAV)


def test_copies_of_members_leave_nothing_in_the_cache(tmp_path, monkeypatch):
    pytest.importorskip('av')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    archive = write_tar(tmp_path / 'a.tar', {'a.m4a': (WILD / 'aac.m4a').read_bytes()})
    (member,) = tar.list_members(str(archive), ('.m4a',))
    wav = read_audio(member.address)[0]
    assert not list((tmp_path / 'cache').rglob('*.npz'))
    assert (wav == read_audio(WILD / 'aac.m4a')[0]).all()


def test_the_suffix_may_be_in_capitals(files, tmp_path):
    archive = write_tar(tmp_path / 'A.TAR', files)
    for member in tar.list_members(str(archive), WAV):
        assert tar.find_member(member.address) == member
        assert open_audio(member.address).frames > 0
