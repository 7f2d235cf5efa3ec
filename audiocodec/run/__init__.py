"""Mechanics of a run that know no codec: device, workers, signals, checkpoints, logs, trackers."""
