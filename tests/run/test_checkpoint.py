import errno
import fractions
import os
import pickle
import stat
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from audiocodec.run import checkpoint
from audiocodec.utils.errors import RunError


def content():
    return {
        'format': checkpoint.CHECKPOINT_FORMAT,
        'version': 1,
        'state': {'w': torch.arange(1000.0)},
    }


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / 'checkpoint.th'
    checkpoint.save(content(), path)
    loaded = checkpoint.load_checkpoint(path)
    assert torch.equal(loaded['state']['w'], torch.arange(1000.0))
    assert os.listdir(tmp_path) == ['checkpoint.th']


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'checkpoint.th'
    checkpoint.save(content(), path)
    before = path.read_bytes()
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        checkpoint.save({'state': (i for i in range(3))}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['checkpoint.th']


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'no such checkpoint file: .*missing\.th'):
        checkpoint.load(tmp_path / 'missing.th')


@pytest.mark.parametrize('keep', [0, 10, 500, -200])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, keep):
    path = tmp_path / 'checkpoint.th'
    checkpoint.save(content(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r'checkpoint\.th'):
        checkpoint.load(path)


def test_something_else_is_an_error(tmp_path):
    path = tmp_path / 'notes.txt'
    path.write_text('hello\n')
    with pytest.raises(ValueError, match=r'notes\.txt'):
        checkpoint.load(path)
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.writestr('x', 'y')
    with pytest.raises(ValueError, match=r'a\.zip'):
        checkpoint.load(tmp_path / 'a.zip')
    torch.save([1, 2], tmp_path / 'list.th')
    with pytest.raises(ValueError, match='contains a list'):
        checkpoint.load(tmp_path / 'list.th')


class Payload:
    def __reduce__(self):
        return (os.mkdir, ('executed',))


def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'x': Payload()}, 'evil.th')
    with pytest.raises(ValueError, match='would run code, which is refused'):
        checkpoint.load('evil.th')
    assert not (tmp_path / 'executed').exists()


def test_newer_and_other_formats_are_refused(tmp_path):
    checkpoint.save({**content(), 'version': 99}, tmp_path / 'a.th')
    with pytest.raises(ValueError, match='newer audiocodec'):
        checkpoint.load_checkpoint(tmp_path / 'a.th')
    checkpoint.save({'best_state': {}}, tmp_path / 'b.th')
    with pytest.raises(ValueError, match='not a training checkpoint'):
        checkpoint.load_checkpoint(tmp_path / 'b.th')


def test_prune_keeps_the_newest_by_number(tmp_path):
    for name in (
        'checkpoint.th',
        'checkpoint_2.th',
        'checkpoint_9.th',
        'checkpoint_10.th',
        'checkpoint_x.th',
    ):
        (tmp_path / name).touch()
    checkpoint.prune(tmp_path, 'checkpoint_*.th', keep=2)
    assert sorted(os.listdir(tmp_path)) == [
        'checkpoint.th',
        'checkpoint_10.th',
        'checkpoint_9.th',
        'checkpoint_x.th',
    ]
    checkpoint.prune(tmp_path, 'checkpoint_*.th', keep=None)
    assert len(os.listdir(tmp_path)) == 4


def test_safetensors_contain_complete_exported_models(tmp_path):
    path = tmp_path / 'model.safetensors'
    content = {
        'format': checkpoint.MODEL_FORMAT,
        'version': 1,
        'sig': '12345678',
        'epoch': None,
        'rate': 0.5,
        'config': 'model: {a: "é"}\n',
        'state': {
            'w': torch.arange(6.0).view(2, 3).t(),
            'n': torch.tensor(3),
            'b': torch.ones(2, dtype=torch.bool),
        },
    }
    checkpoint.save(content, path)
    loaded = checkpoint.load(path)
    assert {key: value for key, value in loaded.items() if key != 'state'} == {
        key: value for key, value in content.items() if key != 'state'
    }
    for name, value in content['state'].items():
        assert torch.equal(loaded['state'][name], value)
        assert loaded['state'][name].dtype == value.dtype
    with safe_open(path, 'pt') as file:
        assert file.metadata()['format'] == checkpoint.MODEL_FORMAT
    assert os.listdir(tmp_path) == ['model.safetensors']
    (tmp_path / 'model.safetensors').rename(tmp_path / 'other.bin')
    assert torch.equal(checkpoint.load(tmp_path / 'other.bin')['state']['w'], content['state']['w'])


def test_safetensors_of_others_are_their_tensors(tmp_path):
    save_file({'a': torch.ones(3)}, tmp_path / 'a.safetensors', metadata={'format': 'pt'})
    assert list(checkpoint.load(tmp_path / 'a.safetensors')) == ['a']


def test_safetensors_are_for_exported_models_only(tmp_path):
    with pytest.raises(
        ValueError, match=r"are for exported models only, not for 'audiocodec\.checkpoint'"
    ):
        checkpoint.save(content(), tmp_path / 'checkpoint.safetensors')
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('keep', [0, 4, 8, 100, -1])
def test_truncated_safetensors(tmp_path, keep):
    path = tmp_path / 'a.safetensors'
    save_file({'a': torch.ones(30)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        ValueError, match=r'a\.safetensors cannot be read as safetensors \(.*\): it is'
    ):
        checkpoint.load(path)


def test_damaged_metadata(tmp_path):
    save_file(
        {'a': torch.ones(3)},
        tmp_path / 'a.safetensors',
        metadata={'format': checkpoint.MODEL_FORMAT, 'version': '{'},
    )
    with pytest.raises(
        ValueError, match=r'a\.safetensors is an exported model with damaged metadata'
    ):
        checkpoint.load(tmp_path / 'a.safetensors')


@pytest.mark.parametrize(
    ('start', 'message'),
    [
        (b'', 'it is empty'),
        (
            b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n',
            r'Git LFS pointer, not the file; run `git lfs pull`',
        ),
        (b'\n<!DOCTYPE html><html>', 'it is a web page'),
        (b'RIFF\x00\x00\x00\x00WAVE', 'it is audio'),
        (b'\x1f\x8b\x08\x00', 'unpack it first'),
        (b'PK\x03\x04\x00\x00', 'a zip archive that is truncated'),
        (b'\x80\x02}q\x00(', 'a pickle that is truncated'),
        (b'sample_rate: 24000', "it is a text file .18 bytes. that begins with 'sample_rate"),
        (b'\xff\xfe\x00\x01', r'of an unknown format \(4 bytes, the first are ff fe 00 01\)'),
    ],
)
@pytest.mark.parametrize('name', ['file.th', 'file.safetensors'])
def test_the_kind_of_an_unreadable_file_is_named(tmp_path, start, message, name):
    (tmp_path / name).write_bytes(start)
    with pytest.raises(ValueError, match=rf'{name} cannot be read .*{message}'):
        checkpoint.load(tmp_path / name)


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_plain_pickles_are_refused_and_not_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'evil.pkl').write_bytes(pickle.dumps({'x': Payload()}, protocol=protocol))
    with pytest.raises(ValueError, match=r'evil\.pkl contains more than .*mkdir'):
        checkpoint.load('evil.pkl')
    assert not (tmp_path / 'executed').exists()


def test_types_are_admitted_by_name_for_one_file(tmp_path):
    torch.save({'x': fractions.Fraction(1, 3), 'w': torch.ones(1)}, tmp_path / 'a.th')
    assert checkpoint.foreign_types(tmp_path / 'a.th') == ['fractions.Fraction']
    loaded = checkpoint.load(tmp_path / 'a.th', types={'fractions.Fraction': fractions.Fraction})
    assert loaded['x'] == fractions.Fraction(1, 3)
    with pytest.raises(ValueError, match=r'it names fractions\.Fraction'):
        checkpoint.load(tmp_path / 'a.th')
    torch.save({'x': fractions.Fraction(1), 'y': Payload()}, tmp_path / 'b.th')
    with pytest.raises(ValueError, match=r'it names \w+\.mkdir\.'):
        checkpoint.load(tmp_path / 'b.th', types={'fractions.Fraction': fractions.Fraction})
    (tmp_path / 'c.txt').write_text('hello')
    assert checkpoint.foreign_types(tmp_path / 'c.txt') == []


def test_a_checkpoint_of_version_1_is_at_the_end_of_an_epoch(tmp_path):
    checkpoint.save(content(), tmp_path / 'a.th')
    loaded = checkpoint.load_checkpoint(tmp_path / 'a.th')
    assert (loaded['version'], loaded['position']) == (checkpoint.CHECKPOINT_VERSION, {})
    assert torch.equal(loaded['state']['w'], content()['state']['w'])


@pytest.mark.parametrize('version', [0, -1, '2', None])
def test_an_unknown_version_is_refused_by_name(tmp_path, version):
    checkpoint.save({**content(), 'version': version}, tmp_path / 'a.th')
    with pytest.raises(
        ValueError,
        match=f'a.th has an unknown format version: {version!r}, expected 1 to',
    ):
        checkpoint.load_checkpoint(tmp_path / 'a.th')


def test_a_corrupted_write_does_not_replace_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.th'
    checkpoint.save(content(), path)
    before = path.read_bytes()
    fsync = os.fsync

    def failing_disk(handle):
        os.pwrite(handle, b'\xff' * 64, os.fstat(handle).st_size // 2)
        fsync(handle)

    monkeypatch.setattr(os, 'fsync', failing_disk)
    with pytest.raises(RunError, match='differs from what was written'):
        checkpoint.save({**content(), 'state': {'w': torch.randn(1000)}}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['a.th']


def test_a_full_disk_is_a_message_and_the_old_file_stays(small_disk):
    path = small_disk / 'a.th'
    checkpoint.save(content(), path)
    before = path.read_bytes()
    with pytest.raises(
        RunError,
        match=(
            r'a\.th could not be written \(the old file is intact\): No space left on device: '
            r'free space on the disk '
            r'of .* \(\d MB are free\) and start again$'
        ),
    ):
        checkpoint.save({**content(), 'state': {'w': torch.randn(10**6)}}, path)
    assert path.read_bytes() == before
    assert os.listdir(small_disk) == ['a.th']


def refused(monkeypatch, name, number, condition=lambda argument: True):
    """Make a function of `os` fail with an error number, as on file systems that lack it."""
    real = getattr(os, name)

    def call(argument, *others, **options):
        if condition(argument):
            raise OSError(number, os.strerror(number))
        return real(argument, *others, **options)

    monkeypatch.setattr(os, name, call)


def is_folder(handle):
    return stat.S_ISDIR(os.fstat(handle).st_mode)


@pytest.mark.parametrize('name', ['a.th', 'a.safetensors'])
@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_mounts_without_fsync_of_folders_and_without_permissions(
    tmp_path, monkeypatch, number, name
):
    """CIFS, sshfs, exFAT, mounts of object stores."""
    refused(monkeypatch, 'fsync', number, is_folder)
    refused(monkeypatch, 'chmod', number)
    model = {
        'format': checkpoint.MODEL_FORMAT,
        'version': 1,
        'config': '',
        'state': {'w': torch.arange(5.0)},
    }
    for _ in range(2):
        checkpoint.save(model, tmp_path / name)
    assert torch.equal(checkpoint.load(tmp_path / name)['state']['w'], torch.arange(5.0))
    assert os.listdir(tmp_path) == [name]


def test_mounts_without_links_get_copies(tmp_path, monkeypatch):
    refused(monkeypatch, 'link', errno.EPERM)
    (tmp_path / 'a').write_text('first')
    checkpoint.duplicate(tmp_path / 'a', tmp_path / 'b')
    (tmp_path / 'a').write_text('second')
    assert (tmp_path / 'b').read_text() == 'first'
    assert sorted(os.listdir(tmp_path)) == ['a', 'b']


@pytest.mark.parametrize(('mask', 'mode'), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        checkpoint.save(content(), tmp_path / 'a.th')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'a.th').stat().st_mode) == mode


@pytest.mark.parametrize(
    ('number', 'end'),
    [
        (errno.EROFS, 'is mounted read-only; choose another folder'),
        (errno.EACCES, 'choose another folder'),
        (errno.EDQUOT, "or have this user's quota raised, and start again"),
        (errno.EIO, r'Input/output error'),
    ],
)
def test_write_errors_are_named_with_advice(tmp_path, monkeypatch, number, end):
    refused(monkeypatch, 'fsync', number)
    with pytest.raises(
        RunError, match=rf'a\.th could not be written \(there is no old file\): .*{end}$'
    ):
        checkpoint.save(content(), tmp_path / 'a.th')
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        RunError, match=r'no/a\.th could not be written \(there is no old file\): No such file'
    ):
        checkpoint.save(content(), tmp_path / 'no' / 'a.th')


def test_a_file_truncated_by_a_mount_does_not_replace_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / 'a.th'
    checkpoint.save(content(), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, 'fsync', lambda handle: os.ftruncate(handle, 1000))
    with pytest.raises(RunError, match=r'was not replaced: its end in the new file differs from'):
        checkpoint.save(content(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['a.th']
