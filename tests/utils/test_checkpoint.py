import os
import zipfile

import pytest
import torch

from audiocodec.utils import checkpoint


def content():
    return {'format': checkpoint.CHECKPOINT_FORMAT, 'version': 1, 'state': {'w': torch.arange(1000.)}}


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / 'checkpoint.th'
    checkpoint.save(content(), path)
    loaded = checkpoint.load_checkpoint(path)
    assert torch.equal(loaded['state']['w'], torch.arange(1000.))
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
    with pytest.raises(ValueError, match='holds a list'):
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
    for name in ('checkpoint.th', 'checkpoint_2.th', 'checkpoint_9.th', 'checkpoint_10.th', 'checkpoint_x.th'):
        (tmp_path / name).touch()
    checkpoint.prune(tmp_path, 'checkpoint_*.th', keep=2)
    assert sorted(os.listdir(tmp_path)) == ['checkpoint.th', 'checkpoint_10.th', 'checkpoint_9.th', 'checkpoint_x.th']
    checkpoint.prune(tmp_path, 'checkpoint_*.th', keep=None)
    assert len(os.listdir(tmp_path)) == 4
