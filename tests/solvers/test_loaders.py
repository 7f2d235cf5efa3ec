"""Options of the data reach the loaders; missing data is reported before the first update."""

import gc
import os
import pickle
import re

import pytest
import torch

from audiocodec import train
from audiocodec.data import index_folder, save_manifest
from audiocodec.recipe.parts import build_parts
from audiocodec.solvers import loaders
from audiocodec.solvers.loaders import build_dataloaders
from audiocodec.utils import distrib
from audiocodec.utils.config import ConfigError


@pytest.fixture
def manifest(tmp_path, make_file):
    for number in range(6):
        make_file(tmp_path / 'audio' / f'{number}.wav', 2.0, 16000, seed=number)
    save_manifest(index_folder(tmp_path / 'audio', cache=False), tmp_path / 'm.jsonl')
    return tmp_path / 'm.jsonl'


def compose(manifest, *overrides):
    sources = [
        f'datasource.{split}={manifest}' for split in ('train', 'valid', 'evaluate', 'generate')
    ]
    return train.main.get_xp(
        [
            'solver=compression/debug',
            'dset=audio/default',
            *sources,
            'dataset.num_workers=0',
            *overrides,
        ]
    ).cfg


def test_missing_files_are_found_before_anything_is_read(manifest):
    for number in (1, 4):
        os.unlink(manifest.parent / 'audio' / f'{number}.wav')
    with pytest.raises(ConfigError) as caught:
        build_dataloaders(compose(manifest), torch.device('cpu'))
    assert len(caught.value.problems) == 4
    assert re.match(
        rf'datasource\.train={manifest}: 2 of 6 files do not exist, e\.g\. '
        rf'{manifest.parent}/audio/1\.wav, '
        r'.*4\.wav; audiocodec doctor',
        caught.value.problems[0],
    )


def test_worker_zero_alone_reads_the_source(manifest, monkeypatch):
    """Half a million files, looked up by each of 64 workers, overload a shared file system."""
    cfg = compose(manifest)
    found = loaders.load_files(cfg, 'train')
    assert len(found) == 6
    for name in ('load_source', 'missing_files'):
        monkeypatch.setattr(loaders, name, lambda *arguments: pytest.fail('was read'))
    monkeypatch.setattr(distrib, 'is_distributed', lambda: True)
    monkeypatch.setattr(distrib, 'rank', lambda: 1)

    def received(outcome, src):
        outcome[:] = pickle.loads(pickle.dumps([found, None]))

    monkeypatch.setattr(distrib.distributed, 'broadcast_object_list', received)
    assert loaders.load_files(cfg, 'train') == found


@pytest.mark.parametrize('kind', ['folder', 'manifest'])
def test_what_several_splits_share_is_read_once(manifest, monkeypatch, kind):
    cfg = compose(manifest)
    if kind == 'folder':
        folder = f'datasource.folder={manifest.parent / "audio"}'
        base = ['solver=compression/debug', 'dset=audio/folder', 'dataset.num_workers=0']
        cfg = train.main.get_xp([*base, folder]).cfg
    expected = {split: loaders.load_files(cfg, split) for split in loaders.SPLITS}
    read, collecting = [], []
    plain = loaders.load_source

    def load_source(path, **options):
        read.append(path)
        collecting.append(gc.isenabled())
        return plain(path, **options)

    monkeypatch.setattr(loaders, 'load_source', load_source)
    found = build_dataloaders(cfg, torch.device('cpu'))
    assert len(read) == 1
    assert collecting == [False]  # no garbage is looked for among many new objects
    assert gc.isenabled()
    for split, metas in expected.items():
        paths = found[split].dataset.files
        assert [paths[number].path for number in range(len(paths))] == [meta.path for meta in metas]


def test_fraction_of_bad_files_reaches_the_loaders(manifest):
    loaders = build_dataloaders(compose(manifest), torch.device('cpu'))
    assert {loader.bad_files.max_fraction for loader in loaders.values()} == {0.01}
    loaders = build_dataloaders(
        compose(manifest, 'dataset.max_bad_fraction=0'), torch.device('cpu')
    )
    assert {loader.bad_files.max_fraction for loader in loaders.values()} == {0}
    (manifest.parent / 'audio' / '3.wav').write_text('no audio')
    with pytest.raises(
        ValueError, match=r'max_bad_fraction=0\. Among them:\n.*3\.wav: cannot be read'
    ):
        list(loaders['train'])
    with pytest.raises(
        ConfigError, match=r'dataset\.max_bad_fraction=2: expected a fraction in \[0, 1\]'
    ):
        build_parts(compose(manifest, 'dataset.max_bad_fraction=2'))


def test_fraction_of_bad_files_is_no_part_of_the_signature():
    base = train.main.get_xp(['solver=compression/debug'])
    assert (
        base.sig
        == train.main.get_xp(['solver=compression/debug', 'dataset.max_bad_fraction=0.5']).sig
    )


def test_what_is_listened_to_is_the_same_in_every_run(manifest):
    """Draws of training and validation depend on the seed, those of samples and scores do not."""
    draws = []
    for seed in (1, 2):
        cfg = compose(manifest, f'seed={seed}', 'dataset.segment_duration=0.5')
        splits = ('train', 'valid', 'evaluate', 'generate')
        found = {split: loaders.make_dataset(cfg, split) for split in splits}
        draws.append(
            {split: [dataset[n][1].seek_time for n in range(3)] for split, dataset in found.items()}
        )
    same = [split for split in draws[0] if draws[0][split] == draws[1][split]]
    assert same == ['evaluate', 'generate']


@pytest.fixture
def mixed(tmp_path, make_file):
    """A manifest of 9 s at 16 kHz and 3 s at 24 kHz."""
    for number, rate in enumerate((16000, 16000, 16000, 24000)):
        make_file(tmp_path / 'mixed' / f'{number}.wav', 3.0, rate, seed=number)
    save_manifest(index_folder(tmp_path / 'mixed', cache=False), tmp_path / 'mixed.jsonl')
    return tmp_path / 'mixed.jsonl'


def test_audio_of_a_lower_rate_is_used_with_a_warning(mixed, caplog):
    found = loaders.load_files(compose(mixed, 'sample_rate=24000'), 'train')
    assert len(found) == 4
    (record,) = caplog.records
    assert '75.0% of its 0.00 h has a lower sample rate than the recipe (16000 Hz, not 24000)' in (
        record.getMessage()
    )
    assert 'datasource.min_sample_rate=24000 leaves these 3 files out' in record.getMessage()


def test_audio_of_a_lower_rate_can_be_left_out(mixed, caplog):
    least = 'datasource.min_sample_rate'
    cfg = compose(mixed, 'sample_rate=24000', f'{least}=24000')
    assert [meta.sample_rate for meta in loaders.load_files(cfg, 'train')] == [24000]
    assert not caplog.records
    with caplog.at_level('INFO'):
        loaders.load_files(cfg, 'train')
    assert caplog.messages == [
        f'datasource.train={mixed}: 1 files, 0.00 h, sample rates: 24000 Hz (1), channels: 1 (1); '
        '3 left out below datasource.min_sample_rate'
    ]
    with pytest.raises(ConfigError, match=rf'no file has {least}=48000 Hz; the highest is 24000'):
        loaders.load_files(compose(mixed, f'{least}=48000'), 'train')


def test_the_way_to_mix_reaches_the_dataset(manifest):
    assert loaders.make_dataset(compose(manifest), 'train').downmix == 'mean'
    cfg = compose(manifest, 'datasource.downmix=loudest')
    assert loaders.make_dataset(cfg, 'train').downmix == 'loudest'


def test_several_sources_have_shares_of_the_draws(tmp_path, make_file):
    for name, count in (('speech', 3), ('music', 1)):
        for number in range(count):
            make_file(tmp_path / name / f'{number}.wav', 2.0, 16000, seed=number)
    sources = f'[{{path: {tmp_path}/speech, weight: 1}}, {{path: {tmp_path}/music, weight: 3}}]'
    cfg = compose(tmp_path / 'speech', f'datasource.train={sources}')
    dataset = loaders.make_dataset(cfg, 'train')
    found = [dataset[index][1].meta.path for index in range(160)]
    assert sum('music' in path for path in found) == pytest.approx(120, abs=25)
    plain = compose(tmp_path / 'speech', f'datasource.train=[{tmp_path}/speech, {tmp_path}/music]')
    assert len(loaders.load_files(plain, 'train')) == 4
    other = sources.replace('weight: 3', 'weight: 2')
    sigs = [
        train.main.get_xp(['solver=compression/debug', f'datasource.train={value}']).sig
        for value in (sources, other)
    ]
    assert sigs[0] != sigs[1]


def test_wrong_shares_are_refused(manifest):
    for sources in ('[{path: a}, {path: b}]', '[{path: a, weight: 0}, {path: b, weight: 1}]'):
        with pytest.raises(ConfigError, match=r'datasource\.train=.*expected a path, or a list'):
            build_parts(compose(manifest, f'datasource.train={sources}'))


def test_a_folder_is_split_as_asked(tmp_path, make_file):
    for number in range(12):
        make_file(tmp_path / f'{number // 2}' / f'{number}.wav', 1.0, 16000, seed=number)
    folder = ['datasource.train=null', 'datasource.valid=null', f'datasource.folder={tmp_path}']
    cfg = compose(tmp_path, *folder, 'datasource.group_by=parent')
    parents = [
        {os.path.dirname(meta.path) for meta in loaders.load_files(cfg, split)}
        for split in ('train', 'valid')
    ]
    assert not parents[0] & parents[1]
    with pytest.raises(ConfigError, match='three fractions that add up to 1'):
        build_parts(compose(tmp_path, 'datasource.fractions=[0.5,0.5,0.5]'))


def test_augmentation_reaches_the_training_set_alone(manifest):
    options = ['dataset.train.gain=[-10,6]', 'dataset.train.mix=[0.64,0.24,0.12]']
    cfg = compose(manifest, *options)
    dataset = loaders.make_dataset(cfg, 'train')
    assert (dataset.gain, dataset.mix) == ((-10.0, 6.0), [0.64, 0.24, 0.12])
    assert loaders.make_dataset(cfg, 'valid').gain is None
