import itertools
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from audiocodec.data import AudioDataset, AudioMeta, LoaderDiedError, index_folder, make_loader
from audiocodec.data.loader import BatchPlan


@pytest.fixture
def metas(tmp_path, make_file):
    for number, (seconds, sample_rate) in enumerate([(2.0, 16000), (1.0, 44100), (0.7, 24000)]):
        make_file(tmp_path / 'd' / f'{number}.wav', seconds, sample_rate, seed=number)
    return index_folder(tmp_path / 'd', cache=False)


def dataset(metas, **options):
    return AudioDataset(
        metas, **{'sample_rate': 16000, 'segment_duration': 0.5, 'num_samples': 22, **options}
    )


def same(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) > 0 and all(torch.equal(a, b) for a, b in zip(first, second))


def test_batches_do_not_depend_on_loader_processes(metas):
    one, two = (make_loader(dataset(metas), 4, workers) for workers in (0, 2))
    epochs = []
    for epoch in (0, 1, 3):
        one.set_epoch(epoch)
        two.set_epoch(epoch)  # must reach the processes kept from the epoch before
        epochs.append(list(one))
        assert same(epochs[-1], two)
        assert all(batch.shape == (4, 1, 8000) for batch in epochs[-1])
    assert len(one) == len(two) == 5
    assert not any(torch.equal(a, b) for a, b in zip(epochs[0], epochs[1]))
    one.set_epoch(1)
    assert same(epochs[1], one)


@pytest.mark.parametrize('workers', [0, 2])
def test_epoch_resumes_at_any_batch(metas, workers, monkeypatch):
    data = dataset(metas, return_info=True)
    loader = make_loader(data, 4, workers)
    loader.set_epoch(2)
    whole = [wav for wav, _ in loader]
    for _ in itertools.islice(loader, 2):  # leaves it in the middle
        pass
    loader.set_epoch(2, start=3)
    resumed = list(loader)
    assert same(whole[3:], [wav for wav, _ in resumed])
    assert [info.index for info in resumed[0][1]] == [12, 13, 14, 15]
    assert len(loader) == 5
    loader.set_epoch(2, start=5)
    assert list(loader) == []


def test_skipped_batches_are_not_decoded(metas, monkeypatch):
    data = dataset(metas)
    decoded = []
    monkeypatch.setattr(
        data, '_read', lambda *args, inner=data._read: decoded.append(args) or inner(*args)
    )
    loader = make_loader(data, 4)
    loader.set_epoch(0, start=4)
    assert len(list(loader)) == 1
    assert len(decoded) == 4


@pytest.mark.parametrize('world_size', [1, 2, 4])
def test_ranks_together_equal_one_worker_with_a_larger_batch(metas, world_size):
    data = dataset(metas)
    whole = make_loader(data, 2 * world_size, rank=0, world_size=1)
    loaders = [make_loader(data, 2, rank=rank, world_size=world_size) for rank in range(world_size)]
    for loader in (whole, *loaders):
        loader.set_epoch(1)
    assert {len(loader) for loader in loaders} == {len(whole)} == {22 // (2 * world_size)}
    assert same(whole, [torch.cat(batches) for batches in zip(*loaders, strict=True)])


@pytest.mark.parametrize(
    ('items', 'batch_size', 'world_size'),
    [
        (22, 4, 1),
        (22, 4, 3),
        (1, 4, 3),
        (12, 4, 3),
        (25, 2, 4),
    ],
)
def test_evaluation_neither_loses_nor_repeats_items(items, batch_size, world_size):
    plans = [
        BatchPlan(items, batch_size, False, None, rank, world_size) for rank in range(world_size)
    ]
    batches = [list(plan) for plan in plans]
    assert [len(plan) for plan in plans] == [len(rank) for rank in batches]
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert all(1 <= len(batch) <= batch_size for rank in batches for batch in rank)
    in_order = []
    for together in itertools.zip_longest(*batches, fillvalue=[]):
        for batch in together:
            in_order += batch
    assert in_order == [(0, index) for index in range(items)]


def test_training_drops_the_rest_and_evaluation_does_not(metas):
    assert [len(batch) for batch in make_loader(dataset(metas), 4)] == [4] * 5
    assert [len(batch) for batch in make_loader(dataset(metas, shuffle=False), 4)] == [4] * 5 + [2]
    assert len(list(make_loader(dataset(metas), 4, drop_last=False, max_batches=3))) == 3
    assert [len(batch) for batch in make_loader(dataset(metas), 4, drop_last=False)] == [4] * 5 + [
        2
    ]


def test_infos_come_with_the_batch(metas):
    loader = make_loader(
        dataset(metas, return_info=True, shuffle=False, segment_duration=None, num_samples=None),
        2,
        1,
    )
    (first, first_infos), (second, second_infos) = loader
    assert [info.meta for info in first_infos + second_infos] == metas
    assert (first.shape, second.shape) == ((2, 1, 32000), (1, 1, 11200))
    assert [info.n_frames for info in first_infos] == [32000, 16000]


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 1])
def test_error_of_the_data_keeps_its_message(metas, workers):
    for meta in metas:
        open(meta.path, 'w').close()
    loader = make_loader(dataset(metas), 4, workers)
    with pytest.raises(ValueError, match=r'^100 files in a row cannot be read') as caught:
        next(iter(loader))
    assert 'Traceback' not in str(caught.value)


class Dying(AudioDataset):
    """Dataset whose second batch kills its loader process, as soon as a flag file exists."""

    signal = signal.SIGKILL

    def __getitem__(self, key):
        while key[1] >= 4 and not os.path.exists(self.flag):
            time.sleep(0.01)
        if key[1] >= 4:
            os.kill(os.getpid(), self.signal)
        return super().__getitem__(key)


class Crashing(Dying):
    signal = signal.SIGSEGV


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ('kind', 'message'), [(Dying, r'out of memory.*num_workers'), (Crashing, r'audiocodec doctor')]
)
@pytest.mark.parametrize('is_waiting', [True, False])
def test_death_of_a_loader_process_is_explained(metas, tmp_path, kind, message, is_waiting):
    data = kind(metas, 16000, segment_duration=0.5, num_samples=22)
    data.flag = tmp_path / 'now'
    with pytest.raises(LoaderDiedError, match=message):  # noqa: PT012
        for _ in make_loader(data, 4, 1):
            data.flag.touch()
            if not is_waiting:
                time.sleep(20)  # interrupted
                raise AssertionError('the death was not reported while the consumer was busy')


# Nothing is pinned without a GPU: this makes the pinning thread run, with a function that does
# nothing.
PINNED = """
import os, signal, sys
import torch
import torch.utils.data._utils.pin_memory as pinning
from audiocodec.data import AudioDataset, AudioMeta, make_loader
torch.accelerator.is_available = lambda: True
torch.accelerator.current_accelerator = lambda: torch.device('cpu')
torch.accelerator.current_device_index = lambda: 0
torch.accelerator.set_device_index = lambda index: None
pinning.pin_memory = lambda data, device=None: data

class Dying(AudioDataset):
    def __getitem__(self, key):
        if key[1] >= 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)

meta = AudioMeta(sys.argv[1], 2.0, 16000)
data = Dying([meta], 16000, segment_duration=0.5, num_samples=22, return_info=True)
loader = make_loader(data, 4, 2, pin_memory=True)
try:
    for batch, infos in loader:
        assert loader._loader._iterator._pin_memory_thread.is_alive()
        print(len(infos))
except RuntimeError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_death_of_a_loader_process_is_explained_where_memory_is_pinned(metas):
    run = subprocess.run(
        [sys.executable, '-c', PINNED, metas[0].path], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0
    assert re.fullmatch(r'(4\n)?LoaderDiedError .*out of memory.*num_workers.*\n', run.stdout)


def test_waiting_is_measured(metas, monkeypatch):
    data = dataset(metas)
    monkeypatch.setattr(
        data, '_read', lambda *args, inner=data._read: time.sleep(0.01) or inner(*args)
    )
    loader = make_loader(data, 4)
    before = time.perf_counter()
    for _ in loader:
        time.sleep(0.02)
    assert 0.2 <= loader.wait_time <= time.perf_counter() - before - 0.1


def test_wrong_sizes_are_named():
    data = dataset([AudioMeta('/a.wav', 1.0, 16000)])
    with pytest.raises(
        ValueError, match='22 items is smaller than one batch of 12 on each of 2 workers'
    ):
        make_loader(data, 12, rank=0, world_size=2)
    with pytest.raises(ValueError, match='batch_size=0'):
        make_loader(data, 0)
