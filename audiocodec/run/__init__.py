"""Infrastructure of a run: device, workers, signals, checkpoints, logs, trackers."""
