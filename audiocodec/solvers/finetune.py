"""Fine-tuning (`continue_from`): start from a trained model, and what its training left.

An export holds the model alone. A checkpoint or a bundle of this project also holds optimizers, EMA
weights, discriminators and the balancer's averages. What fits the recipe is loaded, the rest is
newly initialized, and the log lists both.
"""

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import dora
import torch
import yaml

from audiocodec.adversarial import AdversarialTrainer
from audiocodec.losses import Balancer
from audiocodec.models import CompressionModel, pretrained, sources
from audiocodec.models.formats.keys import load_weights
from audiocodec.optim import ModuleEMA
from audiocodec.quantization import BaseQuantizer
from audiocodec.recipe.diff import check_model, differences
from audiocodec.run import checkpoint
from audiocodec.utils import config


class Trainee(NamedTuple):
    """The parts of a solver that has not trained yet; they are changed in place.

    Attributes:
        model: the codec.
        optimizer: of the model.
        adversaries: its discriminators.
        balancer: of the losses.
        ema: the averaged weights; None: none are kept.
    """

    model: CompressionModel
    optimizer: torch.optim.Optimizer
    adversaries: AdversarialTrainer
    balancer: Balancer
    ema: ModuleEMA | None


class Past(NamedTuple):
    """What the training of a model left besides the model; both empty where it is unknown.

    Attributes:
        config: of the run, or the sections of it that a bundle holds.
        state: of its parts, by name.
    """

    config: dict[str, Any]
    state: dict[str, Any]


def find_source(source: str | Path) -> Path:
    """Return the file or folder of a model, see `sources.find`; search next to the running
    experiment first.

    Raises:
        ValueError: there is none.
    """
    return sources.find(source, Path(dora.get_xp().dora.dir) if dora.is_xp() else None)


def read_past(path: Path) -> Past:
    """Read what a file or folder holds besides the model."""
    try:
        content = checkpoint.load_checkpoint(path)
    except ValueError:  # of another kind: `pretrained` has read it
        return Past({}, {})
    return Past(yaml.safe_load(content['config']), content['state'])


def start_from(trainee: Trainee, cfg: Mapping[str, Any], source: str) -> list[str]:
    """Load another model's weights, and what its training left, into the parts of a solver.

    With its optimizer, training continues from the latest weights and their average; without, it
    starts from the averaged weights.

    Args:
        trainee: built from the recipe, moved to its device.
        cfg: the recipe, as dicts and lists.
        source: see `find_source`.

    Returns:
        Lines for the log: what was loaded, what is newly initialized, what has changed.

    Raises:
        ConfigError: the recipe's model differs; the message names every difference.
        ValueError: no such source, or it cannot be read or trained.
    """
    path = find_source(source)
    found = pretrained.read(str(path))
    changed = check_model(cfg, found.config, source)
    past = read_past(path)
    try:
        loaded = _load(trainee, found.state, past, cfg)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is damaged ({type(error).__name__}: {error})') from error
    old = [name for name, is_loaded in loaded.items() if is_loaded]
    new = [name for name, is_loaded in loaded.items() if not is_loaded]
    lines = [
        f'continuing from {path}; loaded: {", ".join(old)}; '
        f'newly initialized: {", ".join(new) or "nothing"}'
    ]
    if changed:
        lines.append(f'training options changed: {changed}')
    if trainee.adversaries.in_warmup:
        lines.append(
            f'the discriminators train alone for the first {trainee.adversaries.warmup} updates; '
            'their weight then grows to its full value over as many again (adversarial.warmup)'
        )
    return lines


def _load(
    trainee: Trainee, weights: Mapping[str, torch.Tensor], past: Past, cfg: Mapping[str, Any]
) -> dict[str, bool]:
    """Load what fits; return what there is, and whether it was loaded."""
    model, optimizer, adversaries, balancer, ema = trainee
    continues = take_optimizer(optimizer, past, cfg, 'optim')
    load_weights(model, past.state['model'] if continues else weights)
    kind = 'weights' if continues or 'ema' not in past.state else 'averaged weights'
    loaded = {kind: True, 'optimizer': continues}
    if not continues:
        settle_codebooks(model)
    if ema is not None:
        ema.restart()
        loaded['running average'] = continues and take_average(ema, past)
    discriminators = take_discriminators(adversaries, past, cfg)
    for name in adversaries.discriminators:
        loaded[f'discriminator {name}'] = name in discriminators
    if discriminators and len(discriminators) == len(adversaries.discriminators):
        taken = take_optimizer(adversaries.optimizer, past, cfg, 'adversarial')
        loaded['their optimizer'] = taken
    norms = take_norms(balancer, past, cfg, discriminators)
    for name in balancer.weights:
        loaded[f'balance of {name}'] = name in norms
    return loaded


def settle_codebooks(model: CompressionModel) -> None:
    """Make the codebooks' statistics fit entries that are averages, or those of another library."""
    for module in model.modules():
        if isinstance(module, BaseQuantizer):
            module.settle_statistics()


def take_optimizer(
    optimizer: torch.optim.Optimizer | None, past: Past, cfg: Mapping[str, Any], section: str
) -> bool:
    """Take an optimizer's moments where it has the kind and the parameters of the one before; its
    rates stay its own.

    Args:
        optimizer: to be changed in place.
        past: of the source.
        cfg: the whole configuration.
        section: `optim`, or `adversarial`, for the optimizer of the discriminators.

    Returns:
        Whether they were taken.
    """
    state = (
        past.state.get('optimizer')
        if section == 'optim'
        else _adversarial_extras(past).get('optimizer')
    )
    kinds = [config.select(each, f'{section}.optimizer._target_') for each in (past.config, cfg)]
    if optimizer is None or not cfg['finetune']['optimizers'] or not state or kinds[0] != kinds[1]:
        return False
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    moments = state['state']
    shapes = [
        (value.shape, parameters[index].shape)
        for index, values in moments.items()
        if index < len(parameters)
        for value in values.values()
        if isinstance(value, torch.Tensor) and value.dim() > 0
    ]
    number = sum(len(group['params']) for group in state['param_groups'])
    if not moments or number != len(parameters) or any(theirs != ours for theirs, ours in shapes):
        return False
    # A copy: the optimizer would go on to update the very tensors it is given.
    optimizer.load_state_dict({**optimizer.state_dict(), 'state': copy.deepcopy(moments)})
    return True


def take_average(average: ModuleEMA, past: Past) -> bool:
    """Take the running average of the weights, where there is one of the same tensors; says
    whether.
    """
    if 'ema' not in past.state:
        return False
    average.load_state_dict(past.state['ema'])
    return True


def take_discriminators(
    adversaries: AdversarialTrainer, past: Past, cfg: Mapping[str, Any]
) -> list[str]:
    """Take the discriminators that have been trained and are as the recipe has them.

    If that is all of them, their count of updates goes on; else it starts afresh beside a generator
    that is trained.

    Returns:
        The names of those taken.
    """
    state, extras = past.state.get('adversaries', {}), _adversarial_extras(past)
    taken = []
    for name, discriminator in adversaries.discriminators.items():
        prefix = f'discriminators.{name}.'
        theirs = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        node = f'adversarial.discriminators.{name}'
        if (
            extras.get('optimizer', {}).get('state')
            and _same_node(past.config, cfg, node)
            and _same_shapes(discriminator.state_dict(), theirs)
        ):
            discriminator.load_state_dict(theirs)
            taken.append(name)
    if len(taken) == len(adversaries.discriminators):
        adversaries.updates = int(extras.get('updates', 0))
        adversaries.generator_pretrained = bool(extras.get('is_late', False))
    else:
        adversaries.start_warmup()
    return taken


def take_norms(
    balancer: Balancer, past: Past, cfg: Mapping[str, Any], discriminators: Collection[str]
) -> list[str]:
    """Take the balancer's averages of those losses that are what they were.

    Args:
        balancer: to be changed in place.
        past: of the source.
        cfg: the whole configuration.
        discriminators: names of those that are the source's.

    Returns:
        The names of the losses.
    """
    theirs = {name: past.state.get('balancer', {}).get(f'norm_{name}') for name in balancer.weights}
    kinds = [config.select(each, 'balancer.per_batch_item') for each in (past.config, cfg)]
    if kinds[0] != kinds[1]:
        return []
    same = {f'{term}_{name}' for name in discriminators for term in ('adv', 'feat')}
    taken = {
        name: norm
        for name, norm in theirs.items()
        if isinstance(norm, torch.Tensor)
        and norm.shape == (2,)
        and (name in same or _same_node(past.config, cfg, f'losses.{name}'))
    }
    balancer.load_state_dict(
        {**balancer.state_dict(), **{f'norm_{name}': norm for name, norm in taken.items()}}
    )
    return list(taken)


def _adversarial_extras(past: Past) -> Mapping[str, Any]:
    """What the adversaries' state holds besides tensors of modules."""
    return past.state.get('adversaries', {}).get('_extra_state') or {}


def _same_shapes(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        theirs[name].shape == value.shape for name, value in ours.items()
    )


def _same_node(past: Mapping[str, Any], cfg: Mapping[str, Any], key: str) -> bool:
    """Whether the component at a key is what it was; its weight among the losses aside."""
    nodes = [config.select(each, key) for each in (past, cfg)]
    if not all(isinstance(node, Mapping) and '_target_' in node for node in nodes):
        return False
    theirs, ours = (
        {name: value for name, value in node.items() if name != 'weight'} for node in nodes
    )
    return not list(differences(ours, theirs))
