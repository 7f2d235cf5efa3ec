"""Check a configuration and build its parts: every problem in one error, before data or a GPU.

Each rule stands where the component checks it, once. Parts are built on the CPU, and run once on a
short signal, so that what does not work together is reported now and not after the data was read.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from audiocodec.adversarial import AdversarialTrainer
from audiocodec.data import SPLITS, AudioMeta, write_audio
from audiocodec.losses import Balancer
from audiocodec.metrics.base import Metric
from audiocodec.models import CompressionModel
from audiocodec.recipe.check import mismatches, rule_problems
from audiocodec.recipe.rules import ACCEPTED, LOADING
from audiocodec.run.device import seed_everything
from audiocodec.utils import config
from audiocodec.utils.annotations import is_number
from audiocodec.utils.config import MISSING, ConfigError
from audiocodec.utils.eval_mode import eval_mode

# Samples of the signal that parts are run on, unless segments are shorter.
SIGNAL_LENGTH = 8192
# More parameter tensors than this are a mistake in the configuration.
MAX_PARAMETERS = 20000
SEED_PURPOSE = 0  # of the seed that initial weights are drawn from


class Parts(NamedTuple):
    """What a configuration builds, on the CPU.

    Attributes:
        model: the codec.
        adversaries: its discriminators, with their optimizer.
        losses: functions of the reconstruction, those that are only reported included.
        weights: of the losses that are not off, by name.
        balancer: weighs the gradients of the trained losses.
        metrics: those of the evaluation, by name.
    """

    model: CompressionModel
    adversaries: AdversarialTrainer
    losses: nn.ModuleDict
    weights: dict[str, float]
    balancer: Balancer
    metrics: dict[str, Metric]

    @property
    def trained(self) -> list[str]:
        """Names of the losses that are trained and not only reported."""
        return [name for name in self.losses if self.weights[name] > 0]


def build_parts(cfg: DictConfig) -> Parts:
    """Check a composed configuration, and build its parts from its seed.

    Raises:
        ConfigError: with every problem: its key, its value and what is accepted.
    """
    plain, problems, is_sound = rule_problems(cfg)
    parts = None
    if is_sound:
        if ACCEPTED['seed'].check(plain['seed']):
            seed_everything(plain['seed'], SEED_PURPOSE)
        builder = _Builder(plain)
        parts = builder.build()
        problems += builder.problems
    if problems or parts is None:
        raise ConfigError(dict.fromkeys(problems))
    return parts


class _Builder:
    """Builds parts, and collects what they report.

    Args:
        plain: a configuration whose sections have the right form.

    Attributes:
        problems: found so far, each beginning with the key that a user sets.
    """

    def __init__(self, plain: dict[str, Any]) -> None:
        self.plain = plain
        self._found: list[str] = []

    @property
    def problems(self) -> list[str]:
        return [_typed_key(self.plain, problem) for problem in self._found]

    def build(self) -> Parts | None:
        """Return the parts; None if one of them could not be built."""
        with _bounded():
            schedule_works = self._check_optimizer()
            # Initial weights are drawn in this order.
            model = self._build_model()
            adversaries = self._build_adversaries(schedule_works)
            losses = self._build_losses()
            weights = self._weights()
            balancer = self._make('balancer', Balancer, weights=self._balanced(weights))
            metrics = self._build_metrics()
        with torch.random.fork_rng(devices=[]):
            self._run_parts(model, adversaries, losses)
            self._check_dataset()
            self._check_writing()
        if model is None or adversaries is None or balancer is None:
            return None
        return Parts(model, adversaries, nn.ModuleDict(losses), weights, balancer, metrics)

    def _make(self, key: str, kind: type | None, node: Any = None, **runtime: Any) -> Any:
        """Build the node at a key, which must make a `kind`; None if it cannot be."""
        node = config.select(self.plain, key) if node is None else node
        try:
            made = config.build(node, key, **runtime)
        except ConfigError as error:
            self._found += error.problems
            return None
        if kind is not None and not isinstance(made, kind):
            self._found.append(
                f'{key}._target_={node["_target_"]}: makes a {type(made).__name__}, where a '
                f'{kind.__name__} is needed'
            )
            return None
        return made

    def _run(self, key: str, node: Mapping[str, Any], run: Callable[[], Any]) -> None:
        """Run a part of this package or of PyTorch; those of others may take long."""
        if not config.is_own(node):
            return
        try:
            run()
        except Exception as error:  # whatever a part raises is what it reports
            self._found.append(f'{key}: {config.reported(node, error)}')

    # ---- building

    def _build_model(self) -> Any:
        if not any(mismatches(self.plain)):
            return self._make('model', CompressionModel)
        for name, part in self.plain['model'].items():
            if isinstance(part, Mapping):
                self._make(f'model.{name}', None)
        return None

    def _build_adversaries(self, schedule_works: bool) -> Any:
        node = dict(self.plain['adversarial'])
        if not self._works_as_optimizer(node.get('optimizer')):
            node.pop('optimizer')  # the rest with the default, so that nothing is reported twice
        if not schedule_works and node.get('schedule') == self.plain['optim']['schedule']:
            node.pop('schedule')  # it has been reported as `optim.schedule`
        return self._make('adversarial', AdversarialTrainer, node)

    def _works_as_optimizer(self, node: Any) -> bool:
        """True if the discriminators' optimizer steps; else it has been reported."""
        if not isinstance(node, Mapping):
            return True
        before = len(self._found)
        factory = self._make('adversarial.optimizer', None, node)
        if factory is not None:
            self._run('adversarial.optimizer', node, lambda: factory([_parameter()]).step())
        return len(self._found) == before

    def _build_losses(self) -> dict[str, nn.Module]:
        losses = {}
        for name, node in self.plain['losses'].items():
            if _is_component(node) and node.get('weight') is not None:
                losses[name] = self._make(f'losses.{name}', nn.Module)
        return {name: loss for name, loss in losses.items() if loss is not None}

    def _weights(self) -> dict[str, float]:
        nodes = self.plain['losses'].items()
        weights = {name: node.get('weight') for name, node in nodes if isinstance(node, Mapping)}
        return {name: weight for name, weight in weights.items() if weight is not None}

    def _balanced(self, weights: Mapping[str, Any]) -> dict[str, float]:
        """The balancer's weights: each trained loss, and two terms for each discriminator."""
        losses, found = self.plain['losses'], {}
        for name, weight in weights.items():
            if '_target_' in losses[name] and _is_positive(weight):
                found[name] = weight
        for name in self.plain['adversarial'].get('discriminators') or ():
            for term in ('adv', 'feat'):
                weight = weights.get(term, 0.0)
                if _is_positive(weight):
                    found[f'{term}_{name}'] = weight
        return found or {'none': 1.0}  # that nothing is trained is reported by a rule

    def _build_metrics(self) -> dict[str, Metric]:
        metrics = {}
        for name, enabled in self.plain['evaluate']['metrics'].items():
            if enabled is True and isinstance(self.plain['metrics'].get(name), Mapping):
                metrics[name] = self._make(f'metrics.{name}', Metric)
        return {name: metric for name, metric in metrics.items() if metric is not None}

    # ---- running on a short signal

    def _run_parts(self, model: Any, adversaries: Any, losses: Mapping[str, nn.Module]) -> None:
        modules = [part for part in (model, adversaries, *losses.values()) if part is not None]
        with torch.no_grad(), eval_mode(*modules):
            if model is not None:
                self._run('model', self.plain['model'], lambda: self._run_model(model))
            wav = _short_signal(self.plain)
            if wav is None:
                return
            for name, loss in losses.items():
                node = self.plain['losses'][name]
                self._run(f'losses.{name}', node, partial(_run_loss, loss, wav))
            if adversaries is None:
                return
            nodes = self.plain['adversarial']['discriminators']
            for name, discriminator in adversaries.discriminators.items():
                self._run(
                    f'adversarial.discriminators.{name}',
                    nodes[name],
                    partial(_run_discriminator, discriminator, adversaries, wav),
                )

    def _run_model(self, model: CompressionModel) -> None:
        for name in ('sample_rate', 'channels'):
            value, expected = getattr(model, name), self.plain[name]
            if value != expected:
                raise ValueError(f'its {name} is {value}, which must agree with {name}={expected}')
        wav = torch.zeros(1, model.channels, model.hop_length)
        wav_hat = model(wav).wav
        if wav_hat.shape != wav.shape:
            raise ValueError(
                f'of a frame of shape {list(wav.shape)} it makes {list(wav_hat.shape)}'
            )

    def _check_optimizer(self) -> bool:
        """Step optimizer and schedule on a parameter of their own; False if the schedule fails."""
        optim, before = self.plain['optim'], len(self._found)
        optimizer = self._make('optim.optimizer', torch.optim.Optimizer, params=[_parameter()])
        factory = self._make('optim.schedule', None)
        if optimizer is not None and factory is not None:
            made: list[Any] = []
            self._run('optim.schedule', optim['schedule'], lambda: made.append(factory(optimizer)))
            self._run('optim.optimizer', optim['optimizer'], optimizer.step)
            if len(self._found) == before:
                for schedule in made:
                    self._run('optim.schedule', optim['schedule'], schedule.step)
        return not any(key.startswith('optim.schedule') for key in self._found[before:])

    # ---- data

    def _check_dataset(self) -> None:
        """Build the dataset of each split on a made-up recording."""
        for split in SPLITS:
            own = self.plain['dataset'][split]
            options = {**self.plain['dataset'], **own}
            node = {key: value for key, value in options.items() if key not in LOADING}
            node['_target_'] = 'audiocodec.data.AudioDataset'
            try:
                config.build(node, 'dataset', **_recording(options))
            except ConfigError as error:
                for problem in error.problems:
                    name = problem.removeprefix('dataset.').split('=')[0].split(':')[0]
                    if name in own:
                        problem = f'dataset.{split}.{problem.removeprefix("dataset.")}'
                    self._found.append(problem)

    def _check_writing(self) -> None:
        """Write a sample in the format of the generated ones."""
        keys = ('generate.audio.format', 'generate.audio.strategy', 'sample_rate', 'channels')
        values = [config.select(self.plain, key) for key in keys]
        if not all(ACCEPTED[key].check(value) for key, value in zip(keys, values)):
            return
        suffix, strategy, sample_rate, channels = values
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f'sample.{suffix}')
            try:
                write_audio(path, torch.zeros(channels, 8), sample_rate, strategy)
            except ValueError as error:
                reason = str(error).removeprefix(f'{path}: ')
                self._found.append(f'generate.audio.format={suffix}: {reason}')


def _is_positive(weight: Any) -> bool:
    return is_number(weight) and weight > 0


def _is_component(node: Any) -> bool:
    return isinstance(node, Mapping) and '_target_' in node


def _run_loss(loss: nn.Module, wav: torch.Tensor) -> None:
    value = loss(wav + 0.1, wav)
    if value.numel() != 1:
        raise ValueError(f'a loss is one number, this one has the shape {list(value.shape)}')


def _run_discriminator(
    discriminator: nn.Module, adversaries: AdversarialTrainer, wav: torch.Tensor
) -> None:
    logits, feature_maps = discriminator(wav)
    adversaries.criterion.real(logits[0])
    feature_maps[0][0]


def _parameter() -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    return parameter


def _recording(options: Mapping[str, Any]) -> dict[str, Any]:
    longest = options.get('max_audio_duration')
    seconds = longest if isinstance(longest, int | float) and longest > 0 else 1e6
    meta = AudioMeta('recording.wav', seconds, 48000)
    return {'meta': [meta], 'sample_rate': 24000, 'channels': 1}


def _short_signal(plain: Mapping[str, Any]) -> torch.Tensor | None:
    """Noise, no longer than a training segment; None if that length is wrong itself."""
    seconds = {**plain['dataset'], **plain['dataset']['train']}.get('segment_duration')
    try:
        samples = SIGNAL_LENGTH if seconds is None else round(seconds * plain['sample_rate'])
        if samples <= 0:
            return None
        return 0.1 * torch.randn(1, plain['channels'], min(SIGNAL_LENGTH, samples))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _typed_key(plain: Mapping[str, Any], problem: str) -> str:
    """Name the key that the user sets: encoder and decoder copy `seanet`, the quantizer `rvq`."""
    for part, section in (('encoder', 'seanet'), ('decoder', 'seanet'), ('quantizer', 'rvq')):
        rest = problem.removeprefix(f'model.{part}')
        if rest == problem or rest[0] not in '.:':
            continue
        name = rest[1:].split('=')[0].split(' ')[0]
        value = config.select(plain['model'][part], name)
        for shared in (section, 'seanet'):
            copied = config.select(plain, f'{shared}.{name}')
            if rest[0] == ':' or copied == value is not MISSING:
                return (shared if isinstance(plain.get(shared), Mapping) else part) + rest
        return part + rest
    return problem


@contextmanager
def _bounded() -> Iterator[None]:
    """Refuse, before memory is filled, more parameters than this machine holds."""
    # A parameter comes with its gradient and, mostly, two moments.
    limit = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 4
    total = number = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total, number
        number += 1
        total += 0 if parameter is None else parameter.numel() * parameter.element_size()
        if total > limit:
            raise RuntimeError(
                f'with more than {limit / 4e9:.1f} billion parameters, an update takes more '
                'memory than this machine has'
            )
        if number > MAX_PARAMETERS:
            raise RuntimeError(f'there are more than {MAX_PARAMETERS} weights and biases')

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
