"""Trackers of metrics, audio and spectrograms: TensorBoard, and Weights & Biases."""

from audiocodec.run.trackers.tracker import Tracker

__all__ = ['Tracker']
