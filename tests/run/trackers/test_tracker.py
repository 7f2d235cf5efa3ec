"""Trackers side by side, and those that cannot be used."""

import sys

import pytest
from tracked import config, curve, start

from audiocodec.run.trackers import Tracker
from audiocodec.utils.config import ConfigError


def test_a_tracker_that_fails_leaves_the_other(wandb, tmp_path, caplog):
    tracker = start(wandb, tmp_path, tensorboard=True)
    wandb.broken = True
    for updates in (10, 20):
        tracker.scalars('train', {'a': 1.0}, updates, 1)
    assert tracker.failures.counts == {'Weights & Biases': 2}
    assert len(caplog.records) == 1
    assert curve(tmp_path / 'tensorboard', 'train/a') == [(10, 1.0), (20, 1.0)]


def test_a_missing_package_is_reported_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs the package wandb: pip install 'audiocodec\[wandb\]'"
    ):
        Tracker(config(wandb=True), tmp_path, 'sig', 0)
