import errno
import fcntl
import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest

from audiocodec.run.lock import FolderLock
from audiocodec.utils.errors import RunError


def _hold(folder, ready, go):
    lock = FolderLock(folder, 'it')
    lock.acquire()
    ready.set()
    go.wait(60)


def test_one_process_holds_it_and_is_named(tmp_path):
    context = multiprocessing.get_context('fork')
    ready, go = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, go))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(
        RunError,
        match=f'^it is already running, by process {holder.pid} on {socket.gethostname()}',
    ):
        FolderLock(tmp_path, 'it').acquire()
    go.set()
    holder.join(60)
    lock = FolderLock(tmp_path, 'it')
    lock.acquire()
    assert json.loads((tmp_path / '.lock').read_text())['pid'] == os.getpid()
    lock.release()


@pytest.mark.parametrize(
    ('number', 'message'),
    [
        (errno.EROFS, 'Read-only file system: FOLDER is mounted read-only; choose another folder'),
        (errno.EACCES, 'Permission denied: this user has no write permission in FOLDER'),
    ],
)
def test_a_folder_that_is_not_writable_is_named_with_advice(tmp_path, monkeypatch, number, message):
    def refused(path, *arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, 'open', refused)
    with pytest.raises(RunError) as caught:
        FolderLock(tmp_path, 'experiment 1').acquire()
    expected = f'experiment 1: cannot write in {tmp_path}: {message}'.replace(
        'FOLDER', str(tmp_path)
    )
    assert str(caught.value).startswith(expected)


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refused(*arguments):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, 'lockf', refused)
    lock = FolderLock(tmp_path, 'it')
    lock.acquire()
    lock.release()
    assert 'cannot be locked (Operation not supported)' in caplog.text


def test_a_full_disk_keeps_the_lock_without_its_holders_name(small_disk):
    (small_disk / '.lock').touch()
    with pytest.raises(OSError, match='No space left'):
        (small_disk / 'filler').write_bytes(bytes(2**22))
    lock = FolderLock(small_disk, 'it')
    lock.acquire()
    context = multiprocessing.get_context('fork')
    with context.Pool(1) as pool:
        assert pool.apply(_is_refused, [small_disk])
    lock.release()


def _is_refused(folder):
    try:
        FolderLock(folder, 'it').acquire()
    except RunError as error:
        return 'by an unknown process' in str(error)
    return False
