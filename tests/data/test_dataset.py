import dataclasses
import logging
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from audiocodec.data import AudioDataset, AudioMeta, convert_audio, index_folder, read_audio
from audiocodec.data.dataset import FileTable


@pytest.fixture
def metas(tmp_path, make_file):
    make_file(tmp_path / 'd' / 'a.wav', 3.0, 16000, seed=1)
    make_file(tmp_path / 'd' / 'b.flac', 1.0, 44100, channels=2, seed=2)
    make_file(tmp_path / 'd' / 'c.wav', 0.7, 24000, seed=3)
    return index_folder(tmp_path / 'd', cache=False)


def dataset(metas, **options):
    return AudioDataset(
        metas,
        **{
            'sample_rate': 24000,
            'segment_duration': 1.0,
            'num_samples': 40,
            'return_info': True,
            **options,
        },
    )


def test_item_is_the_segment_that_its_info_names(metas):
    data = dataset(metas)
    for wav, info in (data[index] for index in range(20)):
        whole = convert_audio(*read_audio(info.meta.path), 24000, 1)
        start = round(info.seek_time * 24000)
        assert wav.shape == (1, 24000)
        assert (info.total_frames, info.sample_rate, info.channels) == (24000, 24000, 1)
        assert info.n_frames == min(24000, whole.shape[-1] - start)
        torch.testing.assert_close(
            wav[:, : info.n_frames], whole[:, start : start + 24000], atol=1e-6, rtol=0
        )
        assert not wav[:, info.n_frames :].any()


@pytest.mark.parametrize('ratio', [0.5, 0.65, 1.0])
def test_at_least_min_segment_ratio_is_audio(metas, ratio):
    ratios = [
        info.n_frames / info.total_frames
        for _, info in dataset(metas, min_segment_ratio=ratio, num_samples=80)
    ]
    assert min(ratios) >= ratio
    assert max(ratios) == 1
    if ratio < 1:
        assert min(ratios) < ratio + 0.15


def test_item_depends_only_on_seed_epoch_and_index(metas):
    data, other = dataset(metas), dataset(metas)
    items = {}
    for epoch in (0, 1, 7):
        data.set_epoch(epoch)
        for index in (0, 1, 39):
            items[epoch, index] = data[index]
    for (epoch, index), (wav, info) in reversed(items.items()):
        again, again_info = other[epoch, index]
        assert torch.equal(wav, again)
        assert info == again_info
        assert (info.epoch, info.index) == (epoch, index)
    assert len({info.seek_time for _, info in items.values()}) == len(items)
    assert dataset(metas, seed=1)[0][1].seek_time != data[0, 0][1].seek_time


def test_without_shuffle_the_epoch_does_not_matter(metas):
    data = dataset(metas, shuffle=False)
    first = data[3]
    data.set_epoch(5)
    assert torch.equal(data[3][0], first[0])
    assert data[9, 3][1] == first[1]
    assert len({info.seek_time for _, info in data}) > 35


def fake_metas(durations, weights=None):
    weights = weights or [None] * len(durations)
    return [
        AudioMeta(f'/{number}.wav', duration, 16000, weight=weight)
        for number, (duration, weight) in enumerate(zip(durations, weights))
    ]


def fractions_drawn(data, items=4000):
    drawn = [
        data._draw_file(np.random.default_rng((1, index)), 0, index, 0) for index in range(items)
    ]
    return np.bincount(drawn, minlength=len(data.files)) / items


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, np.array([1 * 3, 2 * 1, 5 * 0, 4 * 0.5]) / 7),
        ({'sample_on_weight': False}, np.array([1, 2, 5, 4]) / 12),
        ({'sample_on_duration': False}, np.array([3, 1, 0, 0.5]) / 4.5),
        ({'sample_on_duration': False, 'sample_on_weight': False}, np.full(4, 0.25)),
    ],
)
def test_files_are_drawn_by_duration_and_weight(options, expected):
    drawn = fractions_drawn(
        dataset(fake_metas([1, 2, 5, 4], [3, None, 0, 0.5]), num_samples=4000, **options)
    )
    # within four standard deviations
    np.testing.assert_allclose(drawn, expected, atol=4 * 0.5 / np.sqrt(4000))
    assert (drawn[expected == 0] == 0).all()


def test_draw_is_fast_for_many_files():
    import time

    data = dataset(fake_metas([1 + number % 7 for number in range(50_000)]))
    before = time.perf_counter()
    assert fractions_drawn(data, 500).sum() == pytest.approx(1)
    assert (time.perf_counter() - before) / 500 < 1e-3


def test_permutation_goes_through_all_files():
    options = {
        'permutation_on_files': True,
        'sample_on_duration': False,
        'sample_on_weight': False,
        'num_samples': 4,
    }
    data = dataset(fake_metas([1.0] * 10), **options)
    rng = np.random.default_rng(0)
    drawn = [data._draw_file(rng, epoch, index, 0) for epoch in range(10) for index in range(4)]
    passes = [drawn[begin : begin + 10] for begin in range(0, 40, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    other = dataset(fake_metas([1.0] * 10), seed=1, **options)
    assert [other._draw_file(rng, 0, index, 0) for index in range(4)] != drawn[:4]


def test_whole_files_come_in_order(metas):
    data = dataset(metas, segment_duration=None, num_samples=None, channels=2)
    assert len(data) == 3
    items = list(data)
    assert [info.meta for _, info in items] == metas
    assert [wav.shape for wav, _ in items] == [(2, 72000), (2, 24000), (2, 16800)]
    assert [info.index for _, info in items] == [0, 1, 2]
    wav, infos = data.collate(items)
    assert wav.shape == (3, 2, 72000)
    assert [(info.n_frames, info.total_frames) for info in infos] == [
        (72000, 72000),
        (24000, 72000),
        (16800, 72000),
    ]
    assert not wav[2, :, 16800:].any()
    assert torch.equal(wav[2, :, :16800], items[2][0])
    assert [info.meta for _, info in dataset(metas, segment_duration=None, num_samples=2)] == metas[
        :2
    ]
    assert len(dataset(metas, segment_duration=None, num_samples=50)) == 3


def test_return_info_and_padding(metas):
    plain = dataset(metas, return_info=False)
    assert torch.equal(plain[5], dataset(metas)[5][0])
    assert plain.collate([plain[0], plain[1]]).shape == (2, 1, 24000)
    unpadded = dataset(metas, pad=False)
    items = [unpadded[index] for index in range(40)]
    assert all(wav.shape[-1] == info.n_frames == info.total_frames for wav, info in items)
    short = [item for item in items if item[1].n_frames < 24000][:2]
    wav, infos = unpadded.collate(short)
    assert wav.shape[-1] == infos[0].total_frames == max(info.n_frames for _, info in short)


@pytest.mark.parametrize(
    ('sample_rate', 'seconds', 'frames'),
    [
        (44100, 0.1, 4410),
        (16000, 0.29, 4640),
        (48000, 1, 48000),
    ],
)
def test_segment_is_exact(metas, sample_rate, seconds, frames):
    data = dataset(metas, sample_rate=sample_rate, segment_duration=seconds)
    assert {data[index][0].shape for index in range(10)} == {(1, frames)}


def test_files_too_short_are_left_out_unless_all_are(caplog):
    durations = [0.4, 0.5, 3.0]
    with caplog.at_level(logging.WARNING):
        assert [meta.duration for meta in dataset(fake_metas(durations)).files] == [0.5, 3.0]
    assert '1 of 3 files' in caplog.text
    assert len(dataset(fake_metas(durations), segment_duration=10.0).files) == 3
    limits = dataset(
        fake_metas(durations), min_audio_duration=0.45, max_audio_duration=2, segment_duration=None
    )
    assert [meta.duration for meta in limits.files] == [0.5]
    with pytest.raises(ValueError, match=r'none of 3 files is 5 to inf s long'):
        dataset(fake_metas(durations), min_audio_duration=5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'segment_duration': 0}, 'segment_duration=0'),
        ({'min_segment_ratio': 1.5}, r'min_segment_ratio=1\.5: expected a fraction in \[0, 1\]'),
        ({'num_samples': 0}, 'num_samples=0'),
        ({'permutation_on_files': True}, 'sample_on_duration=false'),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        dataset(fake_metas([1.0]), **options)


def test_all_weights_zero():
    with pytest.raises(ValueError, match='every weight is 0'):
        dataset(fake_metas([1.0], [0.0]))


def test_index_out_of_range(metas):
    with pytest.raises(IndexError, match='item 40 of 40'):
        dataset(metas)[40]


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'permutation_on_files': True, 'sample_on_duration': False, 'sample_on_weight': False},
        {'segment_duration': None, 'num_samples': None},
    ],
)
def test_another_file_replaces_an_unreadable_one_and_nothing_else_changes(metas, options):
    before = [
        dataset(metas, **options)[3, index]
        for index in range(3 if 'segment_duration' in options else 20)
    ]
    Path(metas[0].path).write_text('broken')
    after = [dataset(metas, **options)[3, index] for index in range(len(before))]
    assert [info.index for _, info in after] == list(range(len(before)))
    replaced = 0
    for (wav, info), (new, new_info) in zip(before, after):
        if info.meta == metas[0]:
            replaced += 1
            assert new_info.meta in metas[1:]
            assert {one.path for one in new_info.skipped} == {metas[0].path}
            assert (
                new_info.skipped[0].reason
                == f'{metas[0].path}: cannot be read as audio: Format not recognised'
            )
        else:
            assert (info, info.skipped) == (new_info, ())
            assert torch.equal(wav, new)
    assert (
        replaced
        == (
            1 if 'segment_duration' in options else sum(info.meta == metas[0] for _, info in before)
        )
        > 0
    )


def test_unreadable_file_is_named_once_where_no_infos_are_returned(metas, caplog):
    Path(metas[0].path).write_text('broken')
    data = dataset(metas, return_info=False)
    with caplog.at_level(logging.WARNING):
        assert sum(1 for _ in data) == 40
    assert caplog.text.count('a.wav') == 1
    caplog.clear()
    assert sum(len(info.skipped) for _, info in dataset(metas)) > 5
    assert caplog.text == ''  # the receiver of the infos logs them


def test_nothing_but_unreadable_files(metas):
    for meta in metas:
        open(meta.path, 'w').close()
    for options in ({}, {'segment_duration': None}):
        with pytest.raises(
            ValueError, match=r'100 files in a row cannot be read; the last: .*(wav|flac)'
        ):
            dataset(metas, **options)[0]


def test_file_shorter_than_its_manifest_says(metas, tmp_path, make_file):
    wrong = [dataclasses.replace(meta, duration=100.0) for meta in metas[:1]]
    info = dataset([*wrong, dataclasses.replace(metas[2], weight=50.0)])[7][1]
    assert info.n_frames > 0


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (np.nan, 'NaN or Inf'),
        (-np.inf, 'NaN or Inf'),
        (-32768.0, 'a sample of 3.277e\\+04; expected -1 to 1'),
    ],
)
def test_files_with_unusable_samples_are_unreadable(tmp_path, value, message):
    import soundfile

    soundfile.write(tmp_path / 'a.wav', np.full(24000, value), 24000, subtype='FLOAT')
    with pytest.raises(ValueError, match=rf'a\.wav: contains {message}'):
        dataset(index_folder(tmp_path, cache=False))[0]


def test_table_returns_what_it_was_given():
    metas = [
        AudioMeta('/ä/1.wav', 1.25, 16000),
        AudioMeta('/b\udcff.wav', 2.0, 44100, 2, 0.5, 3.0, 'zip:a'),
        AudioMeta('/c.wav', 3.0, 8000, 1, weight=0.0),
    ]
    table = FileTable(metas)
    assert list(table) == metas
    assert list(pickle.loads(pickle.dumps(table))) == metas
    with pytest.raises(IndexError):
        table[3]


# ---- augmentation --------------------------------------------------------------------------------


@pytest.fixture
def loud_and_quiet(tmp_path, make_file):
    for number in range(6):
        make_file(tmp_path / f'{number}.wav', 3.0, 16000, seed=number)
    return index_folder(tmp_path, cache=False)


def drawn(metas, count=200, **options):
    options = {'segment_duration': 0.5, 'num_samples': 400, 'return_info': True, **options}
    dataset = AudioDataset(metas, 16000, **options)
    return [dataset[3, index] for index in range(count)]


def test_gain_is_drawn_for_each_item_and_changes_no_other_draw(loud_and_quiet):
    plain = drawn(loud_and_quiet)
    changed = drawn(loud_and_quiet, gain=[-10, 0])
    gains = []
    for (wav, info), (other, other_info) in zip(plain, changed):
        assert info == other_info
        ratio = other.norm() / wav.norm()
        torch.testing.assert_close(other, wav * ratio, rtol=1e-4, atol=1e-6)
        gains.append(20 * math.log10(ratio))
    assert -10.01 < min(gains) < -9
    assert -1 < max(gains) < 0.01
    again = drawn(loud_and_quiet, gain=[-10, 0])
    assert all(torch.equal(one[0], other[0]) for one, other in zip(changed, again))
    other_seed = drawn(loud_and_quiet, 5, gain=[-10, 0], seed=1)
    assert not torch.equal(other_seed[0][0], changed[0][0])


def test_mixtures_are_as_frequent_as_asked(loud_and_quiet):
    quiet = [-60, -60]  # so that nothing is scaled down
    plain = drawn(loud_and_quiet, gain=quiet)
    mixed = drawn(loud_and_quiet, gain=quiet, mix=[0.5, 0.3, 0.2])
    power = [
        (other.square().sum() / wav.square().sum()).item()
        for (wav, _), (other, _) in zip(plain, mixed)
    ]
    unchanged = sum(torch.equal(wav[0], other[0]) for wav, other in zip(plain, mixed))
    assert unchanged == pytest.approx(100, abs=25)
    assert sum(power) / len(power) == pytest.approx(0.5 + 0.3 * 2 + 0.2 * 3, abs=0.3)
    assert [info.meta for _, info in mixed] == [info.meta for _, info in plain]
    assert [info.seek_time for _, info in mixed] == [info.seek_time for _, info in plain]


def test_every_source_of_a_mixture_is_one_of_the_files(loud_and_quiet):
    ((wav, _),) = drawn(loud_and_quiet, 1, gain=[-40, -40], mix=[0, 1])
    ((first, _),) = drawn(loud_and_quiet, 1)
    other = 100 * wav - first
    distances = []
    for meta in loud_and_quiet:
        whole, _ = read_audio(meta.path)
        windows = whole[0].unfold(0, 50, 1)
        distances.append((windows - other[0, :50]).abs().max(1).values.min().item())
    assert sorted(distance < 1e-4 for distance in distances) == [False] * 5 + [True]


def test_unreadable_sources_of_mixtures_are_reported(loud_and_quiet, tmp_path):
    (tmp_path / '2.wav').write_text('no audio')
    found = drawn(loud_and_quiet, mix=[0, 1])
    named = {skipped.path for _, info in found for skipped in info.skipped}
    assert named == {str(tmp_path / '2.wav')}


@pytest.mark.parametrize(
    ('options', 'problem'),
    [
        ({'gain': [3]}, r'gain=\[3\]: expected \[lowest, highest\] in dB'),
        ({'gain': [3, -3]}, r'gain=\[3, -3\]'),
        ({'mix': []}, r'mix=\[\]: expected probabilities'),
        ({'mix': [0, 0]}, r'mix=\[0, 0\]'),
        ({'mix': [1, -1]}, r'mix=\[1, -1\]'),
        ({'mix': [1, 1], 'segment_duration': None}, 'mix: whole files are not mixed'),
    ],
)
def test_wrong_augmentation_is_refused(loud_and_quiet, options, problem):
    with pytest.raises(ValueError, match=problem):
        drawn(loud_and_quiet, 1, **options)
