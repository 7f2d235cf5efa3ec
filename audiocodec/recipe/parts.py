"""Check a configuration and build its parts, and report every problem in one error.

Most checks are those of the components' own constructors: parts are built on the CPU, then run once
on a short signal, which shows whether they work together before any data is read.
"""

import copy
import os
import re
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

from audiocodec import quantization
from audiocodec.adversarial import AdversarialTrainer
from audiocodec.data import SPLITS, AudioMeta, write_audio
from audiocodec.losses import CodecLoss, LossCombiner
from audiocodec.metrics.base import Metric
from audiocodec.models import CompressionModel
from audiocodec.optim.schedules import advance
from audiocodec.optim.step import without_compiler
from audiocodec.quantization import BaseQuantizer, QuantizedResult
from audiocodec.recipe.check import rule_problems
from audiocodec.recipe.rules import ACCEPTED, LOADING
from audiocodec.run.device import seed_everything
from audiocodec.utils import config
from audiocodec.utils.annotations import is_number
from audiocodec.utils.config import ConfigError
from audiocodec.utils.eval_mode import eval_mode

# Samples of the signal that parts are run on, unless segments are shorter.
SIGNAL_LENGTH = 8192
# More parameter tensors than this are a mistake in the configuration.
MAX_PARAMETERS = 20000
# Distinguishes the seed of the initial weights from those of stages and updates.
SEED_PURPOSE = 0


class Parts(NamedTuple):
    """Components of a configuration, on the CPU.

    Attributes:
        model: the codec.
        adversaries: the discriminators with their optimizer.
        losses: losses between reconstruction and original, including those only reported.
        weights: weights by name of all losses that are not off.
        balancer: combines the gradients of the trained losses.
        metrics: evaluation metrics by name.
    """

    model: CompressionModel
    adversaries: AdversarialTrainer
    losses: nn.ModuleDict
    weights: dict[str, float]
    balancer: LossCombiner
    metrics: dict[str, Metric]

    @property
    def trained(self) -> dict[str, nn.Module]:
        """Losses on the waveform that are trained, in contrast to those only reported."""
        return {
            name: loss
            for name, loss in self.losses.items()
            if self.weights[name] > 0 and not isinstance(loss, CodecLoss)
        }

    @property
    def trained_on_output(self) -> nn.ModuleDict:
        """Losses on the output of the codec that are trained, with their own parameters."""
        return nn.ModuleDict(
            {
                name: loss
                for name, loss in self.losses.items()
                if self.weights[name] > 0 and isinstance(loss, CodecLoss)
            }
        )


def build_parts(cfg: DictConfig) -> Parts:
    """Check a composed configuration and build its parts; its seed determines the initial weights.

    Raises:
        ConfigError: with every problem: key, value and what is accepted.
    """
    plain, problems, can_build = rule_problems(cfg)
    targets = plain.get('allow_targets', ())
    if ACCEPTED['allow_targets'].check(targets):
        config.allow_targets(*targets)
    parts = None
    if can_build:
        # With an invalid seed, building shows the other problems.
        if ACCEPTED['seed'].check(plain.get('seed')):
            seed_everything(plain['seed'], SEED_PURPOSE)
        builder = _Builder(cfg)
        with without_compiler():
            parts = builder.build()
        problems += builder.problems
    if problems or parts is None:
        raise ConfigError(dict.fromkeys(problems))
    return parts


def check_on_device(parts: Parts, cfg: DictConfig, device: torch.device) -> None:
    """Run the parts that contain components of other packages on a short signal.

    `build_parts` does not: those components may need the device of the run.

    Args:
        parts: on `device`.
        cfg: the configuration that they are built from.
        device: of the run.

    Raises:
        ConfigError: with what each of them reports.
    """
    builder = _Builder(cfg, device)
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        builder.run_parts(parts.model, parts.adversaries, dict(parts.losses.items()))
    if builder.problems:
        raise ConfigError(builder.problems)


class _Builder:
    """Builds parts and collects the problems that they report.

    Args:
        cfg: a configuration in which all sections are mappings.
        device: where components of other packages are run; None: only the others are.

    Attributes:
        problems: messages, each beginning with the key that the user sets.
    """

    def __init__(self, cfg: DictConfig, device: torch.device | None = None) -> None:
        self.plain = config.to_plain(cfg)
        self.raw = config.unresolved(cfg)
        self.device = device
        self._found: list[str] = []

    @property
    def problems(self) -> list[str]:
        return [_typed_key(self.raw, problem) for problem in self._found]

    def build(self) -> Parts | None:
        """Return the parts; None if one of them could not be built."""
        with _limited_size():
            schedule_works = self._check_optimizer()
            # The order is fixed: initial weights are drawn from one generator.
            model = self._make('model', CompressionModel)
            adversaries = self._build_adversaries(schedule_works)
            losses = self._build_losses()
            weights = self._weights()
            balancer = self._make('balancer', LossCombiner, weights=self._balanced(weights, losses))
            if model is not None:
                self._check_loss_terms(model)
            metrics = self._build_metrics()
        with torch.random.fork_rng(devices=[]):  # the checks must not change the draws of the run
            if model is not None:
                self._check_audio_format(model)
                self._check_rates(model)
                self._check_part_names(model)
            self.run_parts(model, adversaries, losses)
            self._check_dataset()
            self._check_writing()
        if model is None or adversaries is None or balancer is None:
            return None
        return Parts(model, adversaries, nn.ModuleDict(losses), weights, balancer, metrics)

    def _make(self, key: str, kind: type | None, node: Any = None, **runtime: Any) -> Any:
        """Build the node at a key, which must be a `kind`; None after a problem."""
        node = config.select(self.plain, key) if node is None else node
        try:
            made = config.build(node, key, **runtime)
        except ConfigError as error:
            self._found += error.problems
            return None
        if kind is not None and not isinstance(made, kind):
            self._found.append(
                f'{key}._target_={node["_target_"]}: expected {kind.__name__}, got '
                f'{type(made).__name__}'
            )
            return None
        return made

    def _run(self, key: str, node: Mapping[str, Any], run: Callable[[], Any]) -> None:
        """Run a part and note its error.

        Parts that contain components of other packages may need a GPU: see `check_on_device`.
        """
        is_own = all(config.is_own(component) for _, component in config.targets(node))
        if is_own == (self.device is not None):
            return
        try:
            run()
        except Exception as error:  # components may raise anything
            self._found.append(f'{key}: {config.reported(node, error)}')

    # ---- building

    def _build_adversaries(self, schedule_works: bool) -> Any:
        # What is reported already is left to its default, so that it is not reported twice.
        node = dict(self.plain['adversarial'])
        if not self._check_adversarial_optimizer(node.get('optimizer')):
            node.pop('optimizer')
        if not schedule_works and node.get('schedule') == self.plain['optim']['schedule']:
            node.pop('schedule')
        return self._make('adversarial', AdversarialTrainer, node)

    def _check_adversarial_optimizer(self, node: Any) -> bool:
        """Step the discriminators' optimizer on a dummy parameter; False after a problem."""
        if not isinstance(node, Mapping):
            return True
        before = len(self._found)
        factory = self._make('adversarial.optimizer', None, node)
        if factory is not None:
            self._run('adversarial.optimizer', node, lambda: _step(factory([_parameter()])))
        return len(self._found) == before

    def _build_losses(self) -> dict[str, nn.Module]:
        losses = {}
        for name, node in self.plain['losses'].items():
            if _is_component(node) and node.get('weight') is not None:
                losses[name] = self._make(f'losses.{name}', nn.Module)
        return {name: loss for name, loss in losses.items() if loss is not None}

    def _weights(self) -> dict[str, float]:
        """Return the weights of all losses that are not off."""
        nodes = self.plain['losses'].items()
        weights = {name: node.get('weight') for name, node in nodes if isinstance(node, Mapping)}
        return {name: weight for name, weight in weights.items() if weight is not None}

    def _check_loss_terms(self, model: CompressionModel) -> None:
        """Compare the losses that have only a weight with those that the model computes."""
        losses = self.plain['losses']
        # Those of other quantizers have no effect: `quantizer._target_` may have replaced one.
        known = {'adv', 'feat', *model.loss_terms, *_terms_of_quantizers()}
        for name, node in losses.items():
            if isinstance(node, Mapping) and '_target_' not in node and name not in known:
                hint = config.nearest(name, losses.keys() - {name})
                self._found.append(
                    f'losses.{name}: a loss needs a _target_, the class that computes it{hint}; '
                    f'the model itself computes {", ".join(model.loss_terms) or "none"}'
                )
        for name in model.loss_terms:
            if name not in losses:
                self._found.append(
                    f'losses.{name}.weight is missing: the model has this loss; add it with '
                    f'+losses.{name}.weight=1.0, or 0 to report it only'
                )

    def _balanced(
        self, weights: Mapping[str, Any], losses: Mapping[str, nn.Module]
    ) -> dict[str, float]:
        """Return the balancer's weights: trained losses, and two terms per discriminator."""
        balanced = {}
        for name, weight in weights.items():
            on_output = isinstance(losses.get(name), CodecLoss)
            if '_target_' in self.plain['losses'][name] and _is_positive(weight) and not on_output:
                balanced[name] = weight
        for name in self.plain['adversarial'].get('discriminators') or ():
            for term in ('adv', 'feat'):
                weight = weights.get(term, 0.0)
                if _is_positive(weight):
                    balanced[f'{term}_{name}'] = weight
        # A balancer needs a loss. That there is none is reported by a rule.
        return balanced or {'none': 1.0}

    def _build_metrics(self) -> dict[str, Metric]:
        metrics = {}
        for name, enabled in self.plain['evaluate']['metrics'].items():
            if enabled is True and isinstance(self.plain['metrics'].get(name), Mapping):
                key = f'metrics.{name}'
                metrics[name] = metric = self._make(key, Metric)
                if metric is not None:
                    run = partial(metric.prepare, self.plain['output_sample_rate'])
                    self._run(key, self.plain['metrics'][name], run)
        return {name: metric for name, metric in metrics.items() if metric is not None}

    # ---- running on a short signal

    def run_parts(self, model: Any, adversaries: Any, losses: Mapping[str, nn.Module]) -> None:
        """Run each part on a short signal, in eval mode."""
        modules = [part for part in (model, adversaries, *losses.values()) if part is not None]
        with torch.no_grad(), eval_mode(*modules):
            if model is not None:
                quantizer = getattr(model, 'quantizer', None)
                node = self.plain['model'].get('quantizer')
                before = len(self._found)
                # Only those of other packages: ours have tests.
                if (
                    self.device is not None
                    and isinstance(quantizer, BaseQuantizer)
                    and _is_component(node)
                ):
                    run = partial(_run_quantizer, quantizer, model.frame_rate, self.device)
                    self._run('model.quantizer', node, run)
                if len(self._found) == before:
                    self._run('model', self.plain['model'], partial(_run_model, model))
            wav = _short_signal(self.plain)
            if wav is None:
                return
            wav = wav.to(self.device or 'cpu')
            for name, loss in losses.items():
                node = self.plain['losses'][name]
                if not isinstance(loss, CodecLoss):
                    self._run(f'losses.{name}', node, partial(_run_loss, loss, wav))
                elif model is not None:
                    self._run(f'losses.{name}', node, partial(_run_codec_loss, loss, model, wav))
            if adversaries is None:
                return
            nodes = self.plain['adversarial']['discriminators']
            for name, discriminator in adversaries.discriminators.items():
                self._run(
                    f'adversarial.discriminators.{name}',
                    nodes[name],
                    partial(_run_discriminator, discriminator, adversaries, wav),
                )

    def _check_audio_format(self, model: CompressionModel) -> None:
        wrong = False
        for name in ('sample_rate', 'output_sample_rate', 'channels'):
            value, expected = getattr(model, name), self.plain[name]
            # a wrong sample rate is that of the output, too
            if value != expected and not (wrong and name == 'output_sample_rate'):
                wrong = True
                self._found.append(
                    f'model: its {name} is {value}, which must agree with {name}={expected}'
                )

    def _check_rates(self, model: CompressionModel) -> None:
        """Set each rate of the evaluate stage on a model; it is the same afterwards."""
        rates = self.plain['evaluate']['kbps']
        if rates is None or not ACCEPTED['evaluate.kbps'].check(rates) or not model.cardinality:
            return
        before = model.num_codebooks
        for rate in rates:
            try:
                model.set_bandwidth(rate)
            except ValueError as error:
                self._found.append(f'evaluate.kbps={rates}: {error}')
        model.set_num_codebooks(before)

    def _check_part_names(self, model: CompressionModel) -> None:
        """Check the names of parts to train, or to start anew."""
        known = [name for name, part in model.named_children() if list(part.state_dict())]
        for key in ('train.only', 'finetune.fresh'):
            value = config.select(self.plain, key)
            if value is None or not ACCEPTED[key].check(value):
                continue
            for name in [value] if isinstance(value, str) else value:
                if name not in known:
                    hint = config.nearest(name, known)
                    self._found.append(f'{key}={value}: expected parts: {", ".join(known)}{hint}')

    def _check_optimizer(self) -> bool:
        """Step optimizer and schedule on a dummy parameter; False if the schedule fails."""
        optim, before = self.plain['optim'], len(self._found)
        optimizer = self._make('optim.optimizer', torch.optim.Optimizer, params=[_parameter()])
        factory = self._make('optim.schedule', None)
        if optimizer is not None and factory is not None:
            made: list[Any] = []  # stays empty for a schedule of another package
            self._run('optim.schedule', optim['schedule'], lambda: made.append(factory(optimizer)))
            self._run('optim.optimizer', optim['optimizer'], lambda: _step(optimizer))
            if len(self._found) == before:
                for schedule in made:
                    self._run('optim.schedule', optim['schedule'], partial(advance, schedule))
        return not any(key.startswith('optim.schedule') for key in self._found[before:])

    # ---- data

    def _check_dataset(self) -> None:
        """Build the dataset of each split on a fictitious recording."""
        for split in SPLITS:
            own = self.plain['dataset'][split]
            options = {**self.plain['dataset'], **own}
            node = {key: value for key, value in options.items() if key not in LOADING}
            node['_target_'] = 'audiocodec.data.AudioDataset'
            try:
                config.build(node, 'dataset', **_recording(options))
            except ConfigError as error:
                for problem in error.problems:
                    rest = problem.removeprefix('dataset.')
                    name = rest.split('=')[0].split(':')[0]
                    self._found.append(f'dataset.{split}.{rest}' if name in own else problem)

    def _check_writing(self) -> None:
        """Write a sample in the format of the generate stage."""
        keys = (
            'generate.audio.format',
            'generate.audio.strategy',
            'output_sample_rate',
            'channels',
        )
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


def _terms_of_quantizers() -> set[str]:
    """Return the names of the losses of all quantizers of this package."""
    classes = [getattr(quantization, name) for name in quantization.__all__]
    return {term for one in classes for term in getattr(one, 'loss_terms', ())}


def _is_positive(weight: Any) -> bool:
    return is_number(weight) and weight > 0


def _is_component(node: Any) -> bool:
    return isinstance(node, Mapping) and '_target_' in node


def _run_model(model: CompressionModel) -> None:
    device = next((tensor.device for tensor in model.parameters()), None)
    samples = round(model.output_sample_rate / model.frame_rate)
    wav = torch.zeros(1, model.channels, samples, device=device)
    wav_hat = model(wav).wav
    if wav_hat.shape != wav.shape:
        raise ValueError(f'it turns a frame of shape {list(wav.shape)} into {list(wav_hat.shape)}')


def _run_loss(loss: nn.Module, wav: torch.Tensor) -> None:
    wav = wav.repeat(2, 1, 1)  # one number per item is a mistake
    with torch.enable_grad():
        value = loss((wav + 0.1).requires_grad_(), wav)
    _check_loss_value(value, 'called as loss(wav_hat, wav), a loss must return a 0-d tensor')


def _run_codec_loss(loss: CodecLoss, model: CompressionModel, wav: torch.Tensor) -> None:
    wav = wav.repeat(2, 1, 1)
    value = loss(model(wav), wav)
    _check_loss_value(value, 'called as loss(output, wav), a CodecLoss must return a 0-d tensor')


def _check_loss_value(value: Any, called: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f'{called}, it returned {type(value).__name__}')
    if value.numel() != 1:
        raise ValueError(f'{called}, it returned the shape {list(value.shape)}')


def _run_quantizer(quantizer: BaseQuantizer, frame_rate: float, device: torch.device) -> None:
    """Check the results of a quantizer, in training mode, on a copy."""
    quantizer = copy.deepcopy(quantizer).train()
    latents = torch.randn(2, quantizer.dimension, 7, device=device, requires_grad=True)
    with torch.enable_grad():
        found = quantizer(latents, frame_rate)
    if not isinstance(found, QuantizedResult):
        raise ValueError(
            'forward must return audiocodec.quantization.QuantizedResult(latents, codes, '
            f'bandwidth, losses, metrics), it returned {type(found).__name__}'
        )
    if found.latents.shape != latents.shape:
        raise ValueError(
            f'forward turns latents of shape {list(latents.shape)} into {list(found.latents.shape)}'
        )
    if not found.latents.requires_grad:
        raise ValueError(
            'forward must return latents that pass the gradient on, e.g. '
            'latents + (quantized - latents).detach()'
        )
    if not isinstance(found.losses, Mapping) or set(found.losses) != set(quantizer.loss_terms):
        terms = list(found.losses) if isinstance(found.losses, Mapping) else found.losses
        raise ValueError(
            f'forward must return losses by name, those of loss_terms={quantizer.loss_terms}, it '
            f'returned {terms}'
        )
    for name, value in {'bandwidth': found.bandwidth, **found.losses}.items():
        if not isinstance(value, torch.Tensor) or value.dim():
            shape = f' of shape {list(value.shape)}' if isinstance(value, torch.Tensor) else ''
            raise ValueError(f'{name} must be a 0-d tensor, it is {type(value).__name__}{shape}')
    if not quantizer.total_codebooks:
        return
    expected = (2, quantizer.num_codebooks, 7)
    for name, codes in (('forward', found.codes), ('encode', quantizer.eval().encode(latents))):
        if codes.dtype != torch.int64 or codes.dim() != 3 or codes.shape[::2] != expected[::2]:
            raise ValueError(
                f'{name} must give codes int64 {list(expected)}, it gives {codes.dtype} '
                f'{list(codes.shape)}'
            )
    decoded = quantizer.decode(codes)
    if decoded.shape != latents.shape:
        raise ValueError(f'decode must give {list(latents.shape)}, it gives {list(decoded.shape)}')


def _run_discriminator(
    discriminator: nn.Module, adversaries: AdversarialTrainer, wav: torch.Tensor
) -> None:
    logits, feature_maps = discriminator(wav)
    adversaries.criterion.real(logits[0])
    feature_maps[0][0]


def _step(optimizer: Any) -> None:
    """Step an optimizer, unless it is one of PyTorch's that take any parameter, as `Adam` does.

    They have checked their arguments when they were created.
    """
    if not (type(optimizer).__module__.startswith('torch.') and 'fused' in optimizer.defaults):
        optimizer.step()


def _parameter() -> nn.Parameter:
    """Return a dummy parameter with a gradient."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    return parameter


def _recording(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a dataset with one recording, which its filters accept."""
    longest = options.get('max_audio_duration')
    seconds = longest if isinstance(longest, int | float) and longest > 0 else 1e6
    meta = AudioMeta('recording.wav', seconds, 48000)
    return {'meta': [meta], 'sample_rate': 24000, 'channels': 1}


def _short_signal(plain: Mapping[str, Any]) -> torch.Tensor | None:
    """Return noise no longer than a training segment; None if that length is invalid."""
    seconds = {**plain['dataset'], **plain['dataset']['train']}.get('segment_duration')
    try:
        samples = SIGNAL_LENGTH if seconds is None else round(seconds * plain['output_sample_rate'])
        if samples <= 0:
            return None
        return 0.1 * torch.randn(1, plain['channels'], min(SIGNAL_LENGTH, samples))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _typed_key(raw: Mapping[str, Any], problem: str) -> str:
    """Name the key that the user sets: where the value that a message begins with comes from.

    `model.encoder.n_filters=0: ...` becomes `seanet.n_filters=0: ...` if the encoder copies it.
    A message about a whole component names the section that most of its arguments come from.
    """
    match = re.match(r'[\w.]+', problem)
    if match is None or not problem.startswith('model.'):
        return problem
    key, rest = config.origins(raw, match[0])[-1], problem[match.end() :]
    if rest.startswith(':') and isinstance(config.select(raw, key), Mapping):
        key = config.source_section(raw, key)
    return key + rest


@contextmanager
def _limited_size() -> Iterator[None]:
    """Stop building parts that are larger than this machine's memory can train."""
    # Each parameter needs a gradient and, with most optimizers, two moments.
    limit = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 4
    total = number = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total, number
        number += 1
        total += 0 if parameter is None else parameter.numel() * parameter.element_size()
        problem = None
        if total > limit:
            problem = (
                f'with more than {limit / 4e9:.1f} billion parameters, an update needs more '
                'memory than this machine has'
            )
        elif number > MAX_PARAMETERS:
            problem = f'more than {MAX_PARAMETERS} parameter tensors'
        if problem is not None:
            total = number = 0  # the parts built next are not at fault
            raise RuntimeError(problem)

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
