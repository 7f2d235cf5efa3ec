"""Trackers: one axis, no duplicate points, and failures that do not stop training."""

import importlib.machinery
import io
import os
import subprocess
import sys
import types

import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from audiocodec.run.tracking import Tracker
from audiocodec.utils.config import ConfigError


def config(tensorboard=False, wandb=False):
    return OmegaConf.create(
        {
            'logging': {
                'tensorboard': tensorboard,
                'wandb': {'enabled': wandb, 'project': 'p', 'name': None, 'group': None},
            }
        }
    )


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={'scalars': 0, 'audio': 0})
    found.Reload()
    return found


def curve(folder, name):
    return [(point.step, point.value) for point in events(folder).Scalars(name)]


@pytest.fixture
def steps(tmp_path):
    """Points of a run that was killed after 30 updates, and resumed from a checkpoint of 20."""
    first = Tracker(config(tensorboard=True), tmp_path, 'sig', 0)
    for updates in (10, 20, 30):
        first.scalars('train', {'a': updates}, updates, 1)
    Tracker(config(tensorboard=True), tmp_path, 'sig', 20).scalars('train', {'a': 300.0}, 30, 1)
    return tmp_path / 'tensorboard'


def test_points_that_a_killed_run_left_are_forgotten(steps):
    assert curve(steps, 'train/a') == [(10, 10.0), (20, 20.0), (30, 300.0)]


def test_a_single_stage_keeps_all_points(steps, tmp_path):
    Tracker(config(tensorboard=True), tmp_path, 'sig').scalars('evaluate', {'b': 1.0}, 20, 1)
    assert curve(steps, 'evaluate/b') == [(20, 1.0)]
    assert len(curve(steps, 'train/a')) == 3


def test_audio_is_at_the_updates_of_its_weights(tmp_path):
    tracker = Tracker(config(tensorboard=True), tmp_path, 'sig', 0)
    tracker.audio('generate/000_a b 🎵/reference', torch.rand(2, 16000), 16000, 40, 2)
    found = events(tmp_path / 'tensorboard')
    assert [point.step for point in found.Audio('generate/000_a_b__/reference/audio')] == [40]
    assert not tracker.failures.counts


@pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnhandledThreadExceptionWarning'
)  # TensorBoard's own thread
def test_a_full_disk_is_one_warning_and_there_may_be_space_again(small_disk, caplog):
    tracker = Tracker(config(tensorboard=True), small_disk, 'sig', 0)
    tracker.scalars('train', {'a': 1.0}, 10, 1)
    (small_disk / 'other').write_bytes(bytes(2**21 - 4096 * 4))
    for updates in (20, 30):
        tracker.scalars('train', {f'a{index}': 2.0 for index in range(1000)}, updates, 1)
    assert tracker.failures.counts == {'TensorBoard': 2}
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        'TensorBoard failed, the run continues: OSError: [Errno 28] No space left'
    )
    (small_disk / 'other').unlink()
    tracker.scalars('train', {'a': 4.0}, 40, 1)
    assert curve(small_disk / 'tensorboard', 'train/a') == [(10, 1.0), (40, 4.0)]


class FakeWandb(types.ModuleType):
    """Mock of Weights & Biases; `refuse` is the reason why a run cannot start online."""

    def __init__(self):
        super().__init__('wandb')
        self.__spec__ = importlib.machinery.ModuleSpec('wandb', None)
        self.refuse = lambda run_id: None
        self.disabled, self.broken = False, False
        self.begun, self.points, self.axes, self.finished = [], [], [], 0
        self.in_use = set()

    def init(self, id, mode='online', **options):
        assert options['resume'] == 'allow'
        assert id not in self.in_use, f'run ID {id} is in use'
        self.in_use.add(id)
        if mode == 'online' and self.refuse(id):
            raise RuntimeError(self.refuse(id))
        self.begun.append((id, mode))
        return types.SimpleNamespace(
            disabled=self.disabled and mode == 'online',
            log=self.log,
            finish=self.finish,
            define_metric=lambda *names, **axis: self.axes.append((names, axis)),
        )

    def teardown(self):
        self.in_use.clear()

    def log(self, point):
        if self.broken:
            raise BrokenPipeError('the service is gone')
        self.points.append(point)

    def finish(self):
        self.finished += 1

    def Audio(self, data, sample_rate):  # noqa: N802
        return ('audio', data.shape, sample_rate)

    def Image(self, data):  # noqa: N802
        return ('image', data.shape)


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    for name in ('WANDB_MODE', 'WANDB_DISABLED'):
        monkeypatch.delenv(name, raising=False)
    for name in ('WANDB_LOGIN_TIMEOUT', 'WANDB_FINISH_TIMEOUT'):  # undone after the test
        monkeypatch.setenv(name, '1')
        monkeypatch.delenv(name)
    return fake


def start(wandb, folder, **trackers):
    """Start a tracker, as in a new process."""
    wandb.teardown()
    return Tracker(config(wandb=True, **trackers), folder, 'sig', 0)


def test_a_run_is_continued_and_a_cleared_folder_begins_another(wandb, tmp_path):
    for _ in range(2):
        assert not start(wandb, tmp_path).failures.counts
    (tmp_path / '.wandb_id').unlink()  # as `dora run --clear` does
    start(wandb, tmp_path)
    ids = [run_id for run_id, _ in wandb.begun]
    assert ids[0] == ids[1] != ids[2]
    assert all(run_id.startswith('sig-') for run_id in ids)
    assert (os.environ['WANDB_LOGIN_TIMEOUT'], os.environ['WANDB_FINISH_TIMEOUT']) == ('60', '600')


def test_points_of_wandb_are_on_the_axis_of_updates(wandb, tmp_path):
    tracker = start(wandb, tmp_path)
    tracker.scalars('valid', {'mel': 2.0}, 40, 2)
    tracker.audio('a', torch.rand(2, 2048), 16000, 40, 2)
    tracker.close()
    assert wandb.axes == [(('updates',), {}), (('*',), {'step_metric': 'updates'})]
    assert wandb.points == [
        {'valid/mel': 2.0, 'updates': 40, 'epoch': 2},
        {
            'a/audio': ('audio', (2048, 2), 16000),
            'a/spectrogram': ('image', (168, 800, 3)),
            'updates': 40,
            'epoch': 2,
        },
    ]
    assert wandb.finished == 1


def test_a_run_deleted_on_the_server_gets_a_new_one(wandb, tmp_path, caplog):
    start(wandb, tmp_path)
    ((deleted, _),) = wandb.begun
    wandb.refuse = lambda run_id: (
        f'run me/p/{run_id} was previously created and deleted' if run_id == deleted else None
    )
    for _ in range(2):
        start(wandb, tmp_path)
    _, (second, mode), third = wandb.begun
    assert third == (second, mode) == (second, 'online')
    assert second != deleted
    assert [record.getMessage() for record in caplog.records] == [
        f'Weights & Biases: the run {deleted} was deleted on the server; starting a new one'
    ]


def test_without_login_or_network_the_run_is_kept_offline(wandb, tmp_path, caplog):
    wandb.refuse = lambda run_id: 'No API key configured. Use `wandb login` to log in.'
    tracker = start(wandb, tmp_path)
    tracker.scalars('valid', {'mel': 2.0}, 40, 2)
    assert [mode for _, mode in wandb.begun] == ['offline']
    assert len(wandb.points) == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        f'Weights & Biases cannot be reached, the run is stored in {tmp_path}/wandb (`wandb sync` '
        'uploads '
        'it): No API key configured. Use `wandb login` to log in.'
    )
    wandb.refuse = lambda run_id: None
    start(wandb, tmp_path)  # the same run, once there is a connection
    assert wandb.begun == [(wandb.begun[0][0], 'offline'), (wandb.begun[0][0], 'online')]


def test_an_unanswered_prompt_is_offline_but_the_environment_is_respected(
    wandb, tmp_path, monkeypatch
):
    wandb.disabled = True  # as after the prompt has timed out
    start(wandb, tmp_path)
    assert [mode for _, mode in wandb.begun] == ['online', 'offline']
    monkeypatch.setenv('WANDB_MODE', 'disabled')
    start(wandb, tmp_path)
    assert [mode for _, mode in wandb.begun] == ['online', 'offline', 'online']


def test_a_tracker_that_fails_leaves_the_other(wandb, tmp_path, caplog):
    tracker = start(wandb, tmp_path, tensorboard=True)
    wandb.broken = True
    for updates in (10, 20):
        tracker.scalars('train', {'a': 1.0}, updates, 1)
    assert tracker.failures.counts == {'Weights & Biases': 2}
    assert len(caplog.records) == 1
    assert curve(tmp_path / 'tensorboard', 'train/a') == [(10, 1.0), (20, 1.0)]


def test_a_wandb_that_cannot_begin_at_all_is_a_warning(wandb, tmp_path, caplog):
    (tmp_path / '.wandb_id').mkdir()
    tracker = start(wandb, tmp_path)
    tracker.scalars('train', {'a': 1.0}, 10, 1)
    assert tracker.failures.counts == {'Weights & Biases': 1}
    assert len(caplog.records) == 1


def test_a_missing_package_is_reported_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs the package wandb: pip install 'audiocodec\[wandb\]'"
    ):
        Tracker(config(wandb=True), tmp_path, 'sig', 0)


def test_the_package_itself_without_login(tmp_path):
    pytest.importorskip('wandb')
    code = (
        'import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_tracking '
        'import *; '
        'tracker = Tracker(config(wandb=True), Path(sys.argv[2]), "sig", 0); '
        'tracker.scalars("valid", {"mel": 2.}, 40, 2); tracker.audio("a", torch.rand(1, 9000), '
        '16000, 40, 2); '
        'tracker.close(); assert not tracker.failures.counts'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith('WANDB')}
    done = subprocess.run(
        [sys.executable, '-c', code, os.path.dirname(__file__), str(tmp_path)],
        timeout=120,
        env={**kept, 'HOME': str(tmp_path)},
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('Weights & Biases cannot be reached') == 1
    (run,) = (tmp_path / 'wandb').glob('offline-run-*')
    assert run.name.endswith((tmp_path / '.wandb_id').read_text())
    assert len(list(run.rglob('*.wav'))) == 1
    assert len(list(run.rglob('*.png'))) == 1


def test_long_audio_is_cut_to_half_a_minute(tmp_path):
    tracker = Tracker(config(tensorboard=True), tmp_path, 'sig')
    tracker.audio('long', torch.rand(1, 8000 * 45), 8000, 1, 1)
    (point,) = events(tmp_path / 'tensorboard').Audio('long/audio')
    assert soundfile.info(io.BytesIO(point.encoded_audio_string)).duration == 30
