"""Fine-tuning (`continue_from`): start from a trained model and the state of its training.

An export holds only the model. A checkpoint or bundle of this project also holds optimizers, EMA
weights, discriminators and the balancer's averages. What fits the recipe is loaded, the rest is
newly initialized, and the log lists both.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dora
import torch
import yaml
from omegaconf import DictConfig

from audiocodec.adversarial import AdversarialTrainer
from audiocodec.losses import LossCombiner
from audiocodec.models import CompressionModel, pretrained, sources
from audiocodec.models.formats.common.keys import STATISTICS, load_weights
from audiocodec.optim import ModuleEMA
from audiocodec.quantization import BaseQuantizer
from audiocodec.quantization.base import fitting_state
from audiocodec.recipe.diff import check_model, differences
from audiocodec.run import checkpoint
from audiocodec.utils import config


class Trainee(NamedTuple):
    """Parts of a solver that has not trained yet; they are changed in place.

    Attributes:
        model: the codec.
        optimizer: the model's optimizer.
        adversaries: the discriminators with their optimizer.
        balancer: the loss balancer.
        ema: the averaged weights; None if none are kept.
    """

    model: CompressionModel
    optimizer: torch.optim.Optimizer
    adversaries: AdversarialTrainer
    balancer: LossCombiner
    ema: ModuleEMA | None


class Past(NamedTuple):
    """State of a source's training besides the model; both empty if the source holds only a model.

    Attributes:
        config: configuration of the run, or the sections of it that a bundle holds.
        state: state dicts of its parts, by name.
    """

    config: dict[str, Any]
    state: dict[str, Any]


def find_source(source: str | Path) -> Path:
    """Return the file or folder of a model (see `sources.find`); search next to this run first.

    Raises:
        ValueError: no such file, folder or experiment.
    """
    return sources.find(source, Path(dora.get_xp().dora.dir) if dora.is_xp() else None)


def read_past(path: Path) -> Past:
    """Read the state of training that a file or folder holds besides the model."""
    try:
        content = checkpoint.load_checkpoint(path)
    except ValueError:  # an export, which holds only the model
        return Past({}, {})
    return Past(yaml.safe_load(content['config']), content['state'])


def start_from(trainee: Trainee, recipe: DictConfig, source: str) -> list[str]:
    """Load another model's weights and the state of its training into the parts of a solver.

    If its optimizer is loaded, training continues from the latest weights and their running
    average; otherwise it starts from the averaged weights.

    Args:
        trainee: parts built from the recipe, on their device.
        recipe: the whole configuration.
        source: see `find_source`.

    Returns:
        Lines for the log: what was loaded, what is newly initialized, which options changed.

    Raises:
        ConfigError: the recipe's model differs; the message names every difference.
        ValueError: the source does not exist or cannot be read or trained.
    """
    path = find_source(source)
    found = pretrained.read(str(path))
    changed = check_model(recipe, found.config, source)
    cfg = config.to_plain(recipe)
    past = read_past(path)
    try:
        loaded = _load(trainee, found.state, past, cfg, adapt=bool(changed.model))
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
    if changed.training:
        lines.append(f'training options changed: {changed.training}')
    if changed.model:
        lines.append(f'model changed: {changed.model}')
        lines += _changed_weights(trainee.model, found.state)
    if trainee.adversaries.in_warmup:
        lines.append(
            f'discriminator warm-up: only they train for {trainee.adversaries.warmup} updates; '
            'over as many again, their weight grows to its full value (adversarial.warmup)'
        )
    return lines


def _load(
    trainee: Trainee,
    weights: Mapping[str, torch.Tensor],
    past: Past,
    cfg: Mapping[str, Any],
    adapt: bool,
) -> dict[str, bool]:
    """Load what fits; return the name of each part and whether it was loaded.

    A changed model (`adapt`) takes the weights that fit it; its optimizer starts anew.
    """
    model, optimizer, adversaries, balancer, ema = trainee
    continues = not adapt and take_optimizer(optimizer, past, cfg, 'optim')
    if adapt:
        weights = adapted(model, weights)
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
    averages = balancer.state_dict()
    for name in balancer.weights:
        if f'norm_{name}' in averages:
            loaded[f'balance of {name}'] = name in norms
    return loaded


def adapted(model: CompressionModel, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return a state dict for a model that has changed; what does not fit keeps its value."""
    state = fitting_state(model, weights)
    for name, module in model.named_modules():
        if isinstance(module, BaseQuantizer):
            prefix = f'{name}.'
            theirs = {
                key.removeprefix(prefix): value
                for key, value in weights.items()
                if key.startswith(prefix)
            }
            own = module.adapted_state(theirs)
            state.update({f'{prefix}{key}': value for key, value in own.items()})
    return state


def _changed_weights(model: CompressionModel, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Describe the weights that a changed model does not take over as they are."""
    own = model.state_dict()
    statistics = (*STATISTICS, 'inited')

    kinds: dict[str, list[str]] = {
        'weights of another shape, adapted or new': [],
        'new weights': [],
        'weights left out': [],
    }
    shapes, new, left_out = kinds.values()
    for name in dict.fromkeys([*own, *weights]):
        if name.rpartition('.')[2] in statistics:
            continue
        if name not in weights:
            new.append(name)
        elif name not in own:
            left_out.append(name)
        elif weights[name].shape != own[name].shape:
            shapes.append(f'{name} {list(weights[name].shape)} -> {list(own[name].shape)}')
    return [
        f'{kind}: {len(names)} ({", ".join(names[:4])}{", ..." if len(names) > 4 else ""})'
        for kind, names in kinds.items()
        if names
    ]


def settle_codebooks(model: CompressionModel) -> None:
    """Reset the codebooks' statistics to match their entries, which are averaged or imported."""
    for module in model.modules():
        if isinstance(module, BaseQuantizer):
            module.settle_statistics()


def take_optimizer(
    optimizer: torch.optim.Optimizer | None, past: Past, cfg: Mapping[str, Any], section: str
) -> bool:
    """Load an optimizer's moments if it is of the same class and for the same parameters.

    Its learning rate and other options stay those of the recipe.

    Args:
        optimizer: changed in place.
        past: state of the source.
        cfg: the whole configuration.
        section: `optim`, or `adversarial` for the optimizer of the discriminators.

    Returns:
        Whether the moments were loaded.
    """
    if section == 'optim':
        state = past.state.get('optimizer')
    else:
        state = _adversarial_extras(past).get('optimizer')
    key = f'{section}.optimizer._target_'
    same_class = config.select(past.config, key) == config.select(cfg, key)
    if optimizer is None or not cfg['finetune']['optimizers'] or not state or not same_class:
        return False
    moments = state['state']
    number = sum(len(group['params']) for group in state['param_groups'])
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    if not moments or number != len(parameters) or not _moments_fit(moments, parameters):
        return False
    # A copy, since the optimizer would update the loaded tensors in place.
    optimizer.load_state_dict({**optimizer.state_dict(), 'state': copy.deepcopy(moments)})
    return True


def _moments_fit(
    moments: Mapping[int, Mapping[str, Any]], parameters: Sequence[torch.Tensor]
) -> bool:
    """True if each moment has the shape of its parameter; step counts are scalars."""
    for index, values in moments.items():
        for value in values.values():
            is_moment = isinstance(value, torch.Tensor) and value.dim() > 0
            if is_moment and index < len(parameters) and value.shape != parameters[index].shape:
                return False
    return True


def take_average(average: ModuleEMA, past: Past) -> bool:
    """Load the running average of the weights if there is one; return whether."""
    if 'ema' not in past.state:
        return False
    average.load_state_dict(past.state['ema'])
    return True


def take_discriminators(
    adversaries: AdversarialTrainer, past: Past, cfg: Mapping[str, Any]
) -> list[str]:
    """Load the discriminators that were trained and that the recipe defines in the same way.

    If all are loaded, their count of updates continues. Otherwise they start with a warm-up, since
    the generator is trained already.

    Returns:
        The names of the loaded discriminators.
    """
    state, extras = past.state.get('adversaries', {}), _adversarial_extras(past)
    # An optimizer without moments belongs to discriminators that had not started to train.
    were_trained = bool(extras.get('optimizer', {}).get('state'))
    taken = []
    for name, discriminator in adversaries.discriminators.items():
        prefix = f'discriminators.{name}.'
        keys = [key for key in state if key.startswith(prefix)]
        theirs = {key.removeprefix(prefix): state[key] for key in keys}
        if (
            were_trained
            and _same_node(past.config, cfg, f'adversarial.discriminators.{name}')
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
    balancer: LossCombiner, past: Past, cfg: Mapping[str, Any], discriminators: Collection[str]
) -> list[str]:
    """Load the balancer's averages of the losses that have not changed.

    Args:
        balancer: changed in place.
        past: state of the source.
        cfg: the whole configuration.
        discriminators: names of the discriminators loaded from the source.

    Returns:
        The names of these losses.
    """
    key = 'balancer.per_batch_item'
    if config.select(past.config, key) != config.select(cfg, key):
        return []  # norms per item and per batch are not comparable
    unchanged = {f'{term}_{name}' for name in discriminators for term in ('adv', 'feat')}
    state = past.state.get('balancer', {})
    taken = {}
    for name in balancer.weights:
        norm = state.get(f'norm_{name}')
        if not isinstance(norm, torch.Tensor) or norm.shape != (2,):
            continue
        if name in unchanged or _same_node(past.config, cfg, f'losses.{name}'):
            taken[name] = norm
    norms = {f'norm_{name}': norm for name, norm in taken.items()}
    balancer.load_state_dict({**balancer.state_dict(), **norms})
    return list(taken)


def _adversarial_extras(past: Past) -> Mapping[str, Any]:
    """Return the state of the adversaries besides tensors: optimizer, updates."""
    return past.state.get('adversaries', {}).get('_extra_state') or {}


def _same_shapes(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        theirs[name].shape == value.shape for name, value in ours.items()
    )


def _same_node(past: Mapping[str, Any], cfg: Mapping[str, Any], key: str) -> bool:
    """True if the component at a key has not changed, apart from its weight."""
    nodes = []
    for each in (past, cfg):
        node = config.select(each, key)
        if not isinstance(node, Mapping) or '_target_' not in node:
            return False
        nodes.append({name: value for name, value in node.items() if name != 'weight'})
    theirs, ours = nodes
    return not list(differences(ours, theirs))
