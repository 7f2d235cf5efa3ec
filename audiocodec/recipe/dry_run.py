"""The components of a configuration, built and run on a moment of sound: what they say of their
arguments, and when.

Every rule stands where the component checks it, once. Components of other packages are left out
(see `config.attempt`).
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from audiocodec.adversarial import AdversarialTrainer
from audiocodec.data import AudioMeta, write_audio
from audiocodec.losses import Balancer
from audiocodec.metrics.base import Metric
from audiocodec.models import CompressionModel
from audiocodec.recipe.rules import ACCEPTED, LOADING
from audiocodec.utils import config
from audiocodec.utils.config import MISSING

# Samples that losses and discriminators are tried on, where segments are not shorter.
MOMENT = 8192
# Tensors of parameters in all components.
MOST_PARAMETERS = 20000


def component_problems(plain: Mapping[str, Any], fitting: bool) -> list[str]:
    """What the components say, each with its key.

    Args:
        plain: a configuration whose sections have the right form.
        fitting: whether the parts of the model are meant to fit together; if not, they are tried
            alone.
    """
    with torch.random.fork_rng(devices=[]), _bounded():
        problems = [
            *_model_problems(plain, fitting),
            *_adversarial_problems(plain),
            *_loss_problems(plain),
            *_tried(plain['balancer'], 'balancer', None, Balancer, weights={'trial': 1.0}),
            *_optimizer_problems(plain),
            *_metric_problems(plain),
            *_dataset_problems(plain),
            *_writing_problems(plain),
        ]
    return list(dict.fromkeys(_typed_key(plain, problem) for problem in problems))


def _tried(
    node: Any,
    path: str,
    run: Callable[[Any], Any] | None = None,
    kind: type | None = None,
    **runtime: Any,
) -> list[str]:
    """What is wrong with a node, which should make a `kind`; found by looking at it, by building
    it, by running it.
    """
    if '_target_' not in node:
        return [f'{path}: a component needs a _target_, the class that it is made of']
    problems = config.node_problems(node, path, provided=runtime)
    if problems:  # the parts that look right may still say something
        for key, child in node.items():
            if isinstance(child, Mapping) and '_target_' in child:
                problems += _tried(child, f'{path}.{key}')
        return problems
    made, problems = config.attempt(node, path, **runtime)
    if made is None or problems:
        return problems
    if kind is not None and not isinstance(made, kind):
        return [
            f'{path}._target_={node["_target_"]}: makes a {type(made).__name__}, where a '
            f'{kind.__name__} is needed'
        ]
    try:
        if run is not None:
            run(made)
    except Exception as error:
        return [f'{path}: {config.said(node, error)}']
    return []


def _model_problems(plain: Mapping[str, Any], fitting: bool) -> list[str]:
    node = plain['model']

    @torch.no_grad()
    def run(model: CompressionModel) -> None:
        for name in ('sample_rate', 'channels'):
            if getattr(model, name) != plain[name]:
                raise ValueError(
                    f'its {name} is {getattr(model, name)}, which must agree with '
                    f'{name}={plain[name]}'
                )
        wav = torch.zeros(1, model.channels, model.hop_length)
        found = model.eval()(wav).wav
        if found.shape != wav.shape:
            raise ValueError(f'of a frame of shape {list(wav.shape)} it makes {list(found.shape)}')

    if fitting:
        return _tried(node, 'model', run, CompressionModel)
    parts = ((name, part) for name, part in node.items() if isinstance(part, Mapping))
    return [problem for name, part in parts for problem in _tried(part, f'model.{name}')]


def _adversarial_problems(plain: Mapping[str, Any]) -> list[str]:
    node, wav = dict(plain['adversarial']), _moment(plain)
    if node.get('schedule') == plain['optim']['schedule']:  # the generator's, which is tried there
        node.pop('schedule')
    heard: list[str] = []

    def run(adversaries: AdversarialTrainer) -> None:
        for name, discriminator in adversaries.discriminators.items():
            try:
                with torch.no_grad():
                    logits, feature_maps = discriminator(wav)
                    adversaries.criterion.real(logits[0]), feature_maps[0][0]
            except Exception as error:
                said = config.said(node['discriminators'][name], error)
                heard.append(f'adversarial.discriminators.{name}: {said}')

    problems: list[str] = []
    if isinstance(node.get('optimizer'), Mapping):
        problems = _tried(node['optimizer'], 'adversarial.optimizer', _run_factory)
    if problems:  # the rest with the default, so that nothing is said twice
        node = {key: value for key, value in node.items() if key != 'optimizer'}
    return (
        problems
        + _tried(node, 'adversarial', None if wav is None else run, AdversarialTrainer)
        + heard
    )


def _loss_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    @torch.no_grad()
    def run(loss: Any) -> None:
        assert wav is not None
        value = loss(wav + 0.1, wav)
        if value.numel() != 1:
            raise ValueError(f'a loss is one number, this one has the shape {list(value.shape)}')

    wav = _moment(plain)
    for name, node in plain['losses'].items():
        if isinstance(node, Mapping) and '_target_' in node and node.get('weight') is not None:
            yield from _tried(node, f'losses.{name}', None if wav is None else run, nn.Module)


def _optimizer_problems(plain: Mapping[str, Any]) -> list[str]:
    step: list[Any] = []
    problems = _tried(
        plain['optim']['optimizer'],
        'optim.optimizer',
        step.append,
        torch.optim.Optimizer,
        params=[_parameter()],
    )
    schedule = plain['optim']['schedule']
    if problems or not step:
        return problems + _tried(schedule, 'optim.schedule')
    problems = _tried(schedule, 'optim.schedule', lambda factory: step.append(factory(step[0])))
    for where, stepped in zip(('optim.optimizer', 'optim.schedule'), step):
        try:
            stepped.step()
        except Exception as error:
            problems.append(f'{where}: {config.said(plain["optim"][where[6:]], error)}')
    return problems


def _run_factory(factory: Any) -> None:
    factory([_parameter()]).step()


def _parameter() -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    return parameter


def _metric_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    for name, enabled in plain['evaluate']['metrics'].items():
        if enabled is True and isinstance(plain['metrics'].get(name), Mapping):
            yield from _tried(plain['metrics'][name], f'metrics.{name}', None, Metric)


def _dataset_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """What the dataset says of its options, on a made-up recording."""
    for split in ('train', 'valid', 'evaluate', 'generate'):
        own = plain['dataset'][split]
        options = {**plain['dataset'], **own}
        node = {
            **{key: value for key, value in options.items() if key not in LOADING},
            '_target_': 'audiocodec.data.AudioDataset',
        }
        for problem in _tried(node, 'dataset', **_recording(options, plain)):
            key = problem.removeprefix('dataset.').split('=')[0].split(':')[0]
            yield (
                problem if key not in own else f'dataset.{split}.{problem.removeprefix("dataset.")}'
            )


def _recording(options: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    longest = options.get('max_audio_duration')
    seconds = longest if isinstance(longest, int | float) and longest > 0 else 1e6
    return {
        'meta': [AudioMeta('recording.wav', seconds, 48000)],
        'sample_rate': 24000,
        'channels': 1,
    }


def _writing_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    keys = ('generate.audio.format', 'generate.audio.strategy', 'sample_rate', 'channels')
    form, strategy, sample_rate, channels = (config.select(plain, key) for key in keys)
    if not all(ACCEPTED[key].check(config.select(plain, key)) for key in keys):
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_audio(
                Path(folder, f'sample.{form}'), torch.zeros(channels, 8), sample_rate, strategy
            )
        except ValueError as error:
            yield (
                f'generate.audio.format={form}: '
                f'{str(error).removeprefix(f"{folder}/sample.{form}: ")}'
            )


def _moment(plain: Mapping[str, Any]) -> torch.Tensor | None:
    """A moment of sound, no longer than what is trained on; None if that is wrong itself."""
    seconds = {**plain['dataset'], **plain['dataset']['train']}.get('segment_duration')
    try:
        samples = MOMENT if seconds is None else round(seconds * plain['sample_rate'])
        return (
            0.1 * torch.randn(1, plain['channels'], min(MOMENT, samples)) if samples > 0 else None
        )
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _typed_key(plain: Mapping[str, Any], problem: str) -> str:
    """A problem with the key that the user sets: encoder and decoder take theirs from `seanet`, the
    quantizer `rvq`.
    """
    for part, section in (('encoder', 'seanet'), ('decoder', 'seanet'), ('quantizer', 'rvq')):
        rest = problem.removeprefix(f'model.{part}')
        if rest == problem or rest[0] not in '.:':
            continue
        name = rest[1:].split('=')[0].split(' ')[0]
        value = config.select(plain['model'][part], name)
        for shared in (section, 'seanet'):
            if rest[0] == ':' or config.select(plain, f'{shared}.{name}') == value is not MISSING:
                return (shared if isinstance(plain.get(shared), Mapping) else part) + rest
        return part + rest
    return problem


@contextmanager
def _bounded() -> Iterator[None]:
    """Refuse, before they are filled, parameters that this machine cannot hold, and more layers
    than make sense.
    """
    # A parameter comes with its gradient and, mostly, two moments.
    most = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 4
    total = number = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total, number
        number += 1
        total += 0 if parameter is None else parameter.numel() * parameter.element_size()
        if total > most:
            raise RuntimeError(
                f'with more than {most / 4e9:.1f} billion parameters, an update takes more memory '
                'than '
                'this machine has'
            )
        if number > MOST_PARAMETERS:
            raise RuntimeError(f'there are more than {MOST_PARAMETERS} weights and biases')

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
