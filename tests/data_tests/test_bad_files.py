"""Files that cannot be read: skipped without changing other items, named once, counted, and not without limit."""

import logging

import pytest

from audiocodec.data import AudioDataset, BadFiles, index_folder, make_loader


@pytest.fixture
def metas(tmp_path, make_file):
    for number in range(30):
        make_file(tmp_path / f'{number:02d}.wav', 1.0, seed=number)
    return index_folder(tmp_path, cache=False)


def break_files(metas, numbers):
    for number in numbers:
        with open(metas[number].path, 'wb') as file:
            file.write(b'broken')


def loader(metas, workers=0, **options):
    data = AudioDataset(metas, 16000, segment_duration=0.25, num_samples=200, return_info=True,
                        sample_on_duration=False)
    return make_loader(data, 8, workers, **options)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_bad_file_is_named_once_counted_and_changes_no_other_item(metas, caplog, workers):
    before = {info.index: (info.meta.path, info.seek_time) for _, infos in loader(metas) for info in infos}
    break_files(metas, [3])
    batches = loader(metas, workers)
    with caplog.at_level(logging.WARNING):
        after = [info for _, infos in batches for info in infos]
        again = [info for _, infos in batches for info in infos]
    assert caplog.text.count('Skipped:') == 1
    assert '03.wav' in caplog.text
    assert batches.bad_files.metrics() == {'skipped_files': 1.}
    touched = [info for info in after if info.skipped]
    assert touched
    assert again == after
    for info in after:
        if not info.skipped:
            assert (info.meta.path, info.seek_time) == before[info.index]
        else:
            assert before[info.index][0] == metas[3].path


def test_too_many_end_the_run_and_the_doctor_is_named(metas):
    break_files(metas, range(12))
    with pytest.raises(ValueError, match=r'(?s)draws .* were of 11 files that cannot be read, more than dataset\.'
                                         r'max_bad_fraction=0\.05.*\d\d\.wav: cannot be read.*scripts/doctor\.py'):
        for _ in loader(metas, max_bad_fraction=0.05):
            pass


def test_few_never_end_it_unless_none_is_allowed(metas):
    break_files(metas, range(10))
    assert len(list(loader(metas, max_bad_fraction=0.05))) == 25
    with pytest.raises(ValueError, match='max_bad_fraction=0'):
        list(loader(metas, max_bad_fraction=0.))
    assert len(list(loader(metas, max_bad_fraction=1.))) == 25


def test_counts_go_on_after_an_interruption(metas):
    break_files(metas, range(5))
    whole, first, second = loader(metas), loader(metas), loader(metas)
    for _ in whole:
        pass
    batches = iter(first)
    for _ in range(10):
        next(batches)
    state = first.bad_files.state_dict()
    second.plan.start = 10
    second.bad_files.load_state_dict(state)
    for _ in second:
        pass
    assert second.bad_files.state_dict() == whole.bad_files.state_dict()


def test_a_share_is_a_share():
    with pytest.raises(ValueError, match=r'max_bad_fraction=2: expected a share of the draws, 0 to 1'):
        BadFiles(2)
