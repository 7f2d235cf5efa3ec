"""Names of models, and the files that they resolve to."""

import pytest

from audiocodec.models import pretrained, sources
from audiocodec.utils import paths

SIG = '0a1b2c3d'


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """Makes experiments with a checkpoint, in the folder of all or another one; gives their
    checkpoints.
    """
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path / 'all'))
    monkeypatch.chdir(tmp_path)

    def make(root, sig=SIG):
        path = tmp_path / root / 'xps' / sig / 'checkpoint.th'
        path.parent.mkdir(parents=True)
        path.touch()
        return path

    return make


@pytest.mark.parametrize(
    'name',
    [
        f'//sig/{SIG}',
        f'//sig/{SIG}/',
        SIG,
        f'all/xps/{SIG}',
        f'~/all/xps/{SIG}',
        f'all/xps/{SIG}/checkpoint.th',
        f'//pretrained/all/xps/{SIG}',
    ],
)
def test_every_name_of_an_experiment_is_its_latest_checkpoint(
    experiments, tmp_path, monkeypatch, name
):
    path = experiments('all')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert sources.find(name).absolute() == path
    assert sources.find(path) == path


@pytest.mark.parametrize('name', [f'//sig/{SIG}', SIG])
def test_an_experiment_of_another_folder_is_found_by_its_signature(experiments, name):
    path = experiments('elsewhere')
    with pytest.raises(ValueError, match='no checkpoint at'):
        sources.find(name)
    paths.note_experiment(path.parent)
    assert sources.find(name) == path
    assert (
        sources.find(name, experiments('all').parents[2])
        == path.parents[3] / 'all/xps' / SIG / 'checkpoint.th'
    )


def test_the_order_is_beside_then_all_then_noted(experiments, tmp_path):
    noted = experiments('noted')
    paths.note_experiment(noted.parent)
    assert sources.find(f'//sig/{SIG}', tmp_path / 'beside') == noted
    default = experiments('all')
    assert sources.find(f'//sig/{SIG}', tmp_path / 'beside') == default
    beside = experiments('beside')
    assert sources.find(f'//sig/{SIG}', tmp_path / 'beside') == beside


def test_a_file_named_like_a_signature_is_that_file(experiments, tmp_path):
    experiments('all')
    (tmp_path / SIG).touch()
    assert sources.find(SIG).absolute() == tmp_path / SIG


def test_names_of_models_are_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained.hub, 'fetch', lambda name: tmp_path / name)
    assert sources.find('dac_44khz') == tmp_path / 'descript/dac_44khz'
    assert sources.find('//pretrained/dac_44khz') == tmp_path / 'descript/dac_44khz'
    assert sources.find('//pretrained/somebody/codec') == tmp_path / 'somebody/codec'


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (
            f'//sig/{SIG}',
            r'^//sig/0a1b2c3d: no checkpoint at .*/all/xps/0a1b2c3d/checkpoint\.th; if the '
            r'experiment '
            r'was run elsewhere, give its folder or set AUDIOCODEC_DORA_DIR',
        ),
        (
            SIG,
            r"^'0a1b2c3d': no such file or folder, and as a signature: no checkpoint at "
            r'.*/all/xps/0a1b2c3d/',
        ),
        (
            'models/mine.th',
            r"^'models/mine\.th': no such file or folder\. Expected //sig/SIG, //pretrained/",
        ),
        (
            'encodec_24khz',
            r"^'encodec_24khz': no such file or folder; did you mean 'facebook/encodec_24khz'\? E",
        ),
    ],
)
def test_what_is_not_there_is_said_with_where_it_was_looked_for(experiments, name, message):
    with pytest.raises(ValueError, match=message):
        sources.find(name)


def test_a_noted_folder_that_is_gone_is_named(experiments, tmp_path):
    paths.note_experiment(tmp_path / 'gone' / 'xps' / SIG)
    with pytest.raises(
        ValueError,
        match=rf'{tmp_path}/all/xps/{SIG}/checkpoint.th or {tmp_path}/gone/xps/{SIG}/check',
    ):
        sources.find(f'//sig/{SIG}')
