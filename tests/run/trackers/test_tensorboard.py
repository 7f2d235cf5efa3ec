"""TensorBoard's files: one axis, no duplicate points, and a full disk that does not stop a run."""

import io

import pytest
import soundfile
import torch
from tracked import config, curve, events

from audiocodec.run.trackers import Tracker


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


def test_long_audio_is_cut_to_half_a_minute(tmp_path):
    tracker = Tracker(config(tensorboard=True), tmp_path, 'sig')
    tracker.audio('long', torch.rand(1, 8000 * 45), 8000, 1, 1)
    (point,) = events(tmp_path / 'tensorboard').Audio('long/audio')
    assert soundfile.info(io.BytesIO(point.encoded_audio_string)).duration == 30
