import errno
import os
import re
import stat
from pathlib import Path

import pytest

from audiocodec.utils import files


def refuse(monkeypatch, name, number, condition=lambda handle: True):
    """Make a function of `os` fail with an error number for one kind of handles.

    Returns:
        The list of handles that it has refused.
    """
    real, found = getattr(os, name), []

    def refused(handle, *arguments):
        if condition(handle):
            found.append(handle)
            raise OSError(number, os.strerror(number))
        return real(handle, *arguments)

    monkeypatch.setattr(os, name, refused)
    return found


@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_fsync_keeps_what_is_written(tmp_path, monkeypatch, number):
    refuse(monkeypatch, 'fsync', number)
    with open(tmp_path / 'a', 'w') as file:
        file.write('text')
        files.flush(file)
        assert (tmp_path / 'a').read_text() == 'text'


@pytest.mark.parametrize('number', [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_is_an_error(tmp_path, monkeypatch, number):
    refuse(monkeypatch, 'fsync', number)
    with open(tmp_path / 'a', 'w') as file, pytest.raises(OSError, match=os.strerror(number)):
        files.flush(file)


def test_a_file_is_flushed_to_the_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, 'fsync', lambda handle: flushed.append(os.fstat(handle)))
    with open(tmp_path / 'a', 'w') as file:
        file.write('text')
        files.flush(file)
    files.flush_folder(tmp_path)
    assert [(stat.S_ISDIR(each.st_mode), each.st_ino) for each in flushed] == [
        (False, (tmp_path / 'a').stat().st_ino),
        (True, tmp_path.stat().st_ino),
    ]
    assert flushed[0].st_size == 4


@pytest.mark.parametrize(
    'number', [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EIO]
)
@pytest.mark.parametrize('name', ['fsync', 'open'])
def test_a_folder_need_not_be_flushed(tmp_path, monkeypatch, name, number):
    refused = refuse(
        monkeypatch,
        name,
        number,
        lambda handle: handle == tmp_path or stat.S_ISDIR(os.fstat(handle).st_mode),
    )
    files.flush_folder(tmp_path)
    assert len(refused) == 1


@pytest.mark.parametrize(
    ('number', 'expected'),
    [
        (errno.ENOSPC, r': free space on the disk of FOLDER \(\d+ MB are free\) and start again$'),
        (
            errno.EDQUOT,
            ": free space in FOLDER, or have this user's quota raised, and start again$",
        ),
        (
            errno.EROFS,
            ': FOLDER is mounted read-only; choose another folder$',
        ),
        (
            errno.EACCES,
            ': this user has no write permission in FOLDER; choose another folder$',
        ),
        (errno.EPERM, ': this user has no write permission in FOLDER'),
        (errno.EIO, '^$'),
        (errno.ESTALE, '^$'),
    ],
)
def test_advice_fits_the_cause(tmp_path, number, expected):
    assert re.search(
        expected.replace('FOLDER', re.escape(str(tmp_path))),
        files.advice(OSError(number, os.strerror(number)), tmp_path),
    )


def test_the_free_space_of_a_file_system_that_does_not_tell_it_is_left_out(tmp_path):
    error = OSError(errno.ENOSPC, 'No space left on device')
    missing = tmp_path / 'missing'
    assert files.advice(error, missing) == f': free space on the disk of {missing} and start again'


def test_outputs_that_can_be_written(tmp_path):
    (tmp_path / 'old.txt').write_text('old')
    for name in ('old.txt', 'new.txt', 'deep/er/new.txt'):
        assert files.check_out(str(tmp_path / name)) == tmp_path / name
    for name in ('.', 'new', 'deep/er'):
        assert files.check_out(tmp_path / name, folder=True) == tmp_path / name
    assert [path.name for path in tmp_path.iterdir()] == ['old.txt']


def test_outputs_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.check_out('new.txt') == Path('new.txt')
    assert files.check_out('deep/new', folder=True) == Path('deep/new')
    Path('file').touch()
    with pytest.raises(ValueError, match=f'file/new cannot be created: {tmp_path}/file is a file'):
        files.check_out('file/new')


def test_outputs_where_something_else_stands(tmp_path):
    file, pipe = tmp_path / 'file', tmp_path / 'pipe'
    file.touch()
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match='is a folder: give a file'):
        files.check_out(tmp_path)
    with pytest.raises(ValueError, match='file is a file: give a folder'):
        files.check_out(file, folder=True)
    with pytest.raises(ValueError, match='pipe is a pipe or a device: give a file'):
        files.check_out(pipe)
    assert files.check_out(pipe, may_be_pipe=True) == pipe


def test_links_stay_and_the_files_that_they_lead_to_are_replaced(tmp_path):
    (tmp_path / 'deep').mkdir()
    real, link, chain = tmp_path / 'deep' / 'real', tmp_path / 'link', tmp_path / 'chain'
    real.write_bytes(b'old')
    link.symlink_to('deep/real')
    chain.symlink_to(link)
    files.write_bytes(files.check_out(chain), b'new')
    assert link.is_symlink()
    assert chain.is_symlink()
    assert real.read_bytes() == b'new'
    assert [path.name for path in real.parent.iterdir()] == ['real']
    dangling = tmp_path / 'dangling'
    dangling.symlink_to('deep/er/later')
    files.write_bytes(files.check_out(dangling), b'first')
    assert (tmp_path / 'deep' / 'er' / 'later').read_bytes() == b'first'


@pytest.mark.skipif(not Path('/proc/self/fd').is_dir(), reason='Linux')
def test_open_files_of_a_process_are_streams(tmp_path):
    """As is `/dev/stdout`, a link to a file if the output is redirected to one."""
    with (tmp_path / 'out').open('w') as file:
        link = tmp_path / 'link'
        link.symlink_to(f'/proc/self/fd/{file.fileno()}')
        folder = tmp_path / 'fd'
        folder.symlink_to('/proc/self/fd')
        for path in (link, folder / str(file.fileno()), Path(f'/proc/self/fd/{file.fileno()}')):
            assert path.is_file()
            with pytest.raises(ValueError, match='is a pipe or a device: give a file'):
                files.check_out(path)
            assert files.check_out(path, may_be_pipe=True) == path


def test_outputs_where_the_user_may_not_write(tmp_path, monkeypatch):
    folder, file = tmp_path / 'folder', tmp_path / 'folder' / 'file'
    folder.mkdir()
    file.touch()
    real = os.access
    monkeypatch.setattr(
        os,
        'access',
        lambda path, mode: not (path == folder and mode & os.W_OK) and real(path, mode),
    )
    for out, is_folder in ((folder, True), (folder / 'deep' / 'er', True), (file, False)):
        with pytest.raises(ValueError, match=f'no write permission in {folder}; choose another'):
            files.check_out(out, folder=is_folder)
