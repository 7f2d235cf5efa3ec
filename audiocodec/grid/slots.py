"""Slots for experiments at the same time: the GPUs of this machine, or parts of its CPU."""

import os

import torch

from audiocodec.utils import cpus


class Slots:
    """GPUs, or CPU slots, that are given to an experiment and returned when it ends.

    Args:
        devices: ids of the GPUs, as in CUDA_VISIBLE_DEVICES; none for a machine without.
        at_once: number of experiments at the same time; None: as many as there are GPUs, or one on
            a CPU.

    Raises:
        ValueError: `at_once` is below 1.
    """

    def __init__(self, devices: list[str], at_once: int | None = None) -> None:
        if at_once is not None and at_once < 1:
            raise ValueError(f'--slots {at_once}: expected at least 1')
        self.devices = devices
        self.at_once = at_once or max(1, len(devices))
        self._free = list(devices)
        self._taken: dict[str, list[str]] = {}

    def workers(self, gpus: int) -> int:
        """Return the number of workers for an experiment that asks for `gpus`; 1 on a CPU."""
        return max(1, min(gpus, len(self.devices)))

    def take(self, name: str, gpus: int) -> dict[str, str] | None:
        """Take what an experiment needs.

        Args:
            name: name of the experiment.
            gpus: GPUs that it asks for; it gets as many of them as there are.

        Returns:
            Variables for the environment of its processes; None if too little is free.
        """
        needed = self.workers(gpus) if self.devices else 0
        if len(self._taken) >= self.at_once or needed > len(self._free):
            return None
        given, self._free = self._free[:needed], self._free[needed:]
        self._taken[name] = given
        threads = max(1, cpus.usable_cores() // self.at_once)
        threads = min(threads, int(os.environ.get('OMP_NUM_THREADS', threads)))
        return {'CUDA_VISIBLE_DEVICES': ','.join(given), 'OMP_NUM_THREADS': str(threads)}

    def give_back(self, name: str) -> None:
        """Return what an experiment took."""
        self._free += self._taken.pop(name)


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs that this process may use."""
    listed = os.environ.get('CUDA_VISIBLE_DEVICES')
    count = torch.cuda.device_count()
    if listed is None:
        return [str(index) for index in range(count)]
    return [device.strip() for device in listed.split(',')][:count] if listed.strip() else []
