"""Trackers in tests: a configuration, and what TensorBoard's files say."""

import importlib.machinery
import types

from omegaconf import OmegaConf

from audiocodec.run.trackers import Tracker


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


def start(wandb, folder, **trackers):
    """Start a tracker, as in a new process."""
    wandb.teardown()
    return Tracker(config(wandb=True, **trackers), folder, 'sig', 0)
