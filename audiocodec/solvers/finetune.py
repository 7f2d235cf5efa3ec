"""`continue_from`: training that starts from a model which is trained already, and from what its
training left.

Of an export there is the model alone; a checkpoint or a bundle of this project also has optimizers,
averaged weights, discriminators and the balancer's averages. What fits the recipe is taken, the
rest starts afresh, and the log says which is which.
"""

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from audiocodec.utils.eval_mode import eval_mode

if TYPE_CHECKING:
    from audiocodec.solvers.compression import CompressionSolver


class Past(NamedTuple):
    """What the training of a model left besides the model; both empty where it is not known.

    Attributes:
        config: of the run, or the sections of it that a bundle holds.
        state: of its parts, by name.
    """

    config: dict[str, Any]
    state: dict[str, Any]


def find_source(source: str | Path) -> Path:
    """Returns the file or folder of a model, see `sources.find`; looks beside the running
    experiment first.

    Raises:
        ValueError: there is none.
    """
    return sources.find(source, Path(dora.get_xp().dora.dir) if dora.is_xp() else None)


def read_past(path: Path) -> Past:
    """What there is besides the model in a file or folder that holds one."""
    try:
        content = checkpoint.load_checkpoint(path)
    except ValueError:  # of another kind: `pretrained` has read it
        return Past({}, {})
    return Past(yaml.safe_load(content['config']), content['state'])


def start_from(solver: 'CompressionSolver', source: str) -> None:
    """Put another model's weights, and what its training left, into the parts of a solver that has
    not trained yet.

    With its optimizer, training goes on from the latest weights and their running average; without,
    it starts from the averaged weights.

    Args:
        solver: built from its recipe.
        source: see `find_source`.

    Raises:
        ConfigError: the recipe's model is another one; it names every difference.
        ValueError: no such source, or it cannot be read or trained.
    """
    path = find_source(source)
    found = pretrained.read(str(path))
    cfg = config.to_plain(solver.cfg)
    changed = check_model(cfg, found.config, source)
    past = read_past(path)
    taken: dict[str, bool] = {}
    try:
        goes_on = taken['optimizer'] = take_optimizer(solver.optimizer, past, cfg, 'optim')
        load_weights(solver.model, past.state['model'] if goes_on else found.state)
        if not goes_on:
            settle_codebooks(solver.model)
        if solver.ema is not None:
            solver.ema = ModuleEMA(solver.model, decay=solver.ema.decay, every=solver.ema.every)
            taken['running average'] = goes_on and take_average(solver.ema, past)
        discriminators = take_discriminators(solver.adversaries, past, cfg)
        taken.update(
            {
                f'discriminator {name}': name in discriminators
                for name in solver.adversaries.discriminators
            }
        )
        if discriminators and len(discriminators) == len(solver.adversaries.discriminators):
            taken['their optimizer'] = take_optimizer(
                solver.adversaries.optimizer, past, cfg, 'adversarial'
            )
        norms = take_norms(solver.balancer, past, cfg, discriminators)
        taken.update({f'balance of {name}': name in norms for name in solver.balancer.weights})
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is damaged ({type(error).__name__}: {error})') from error
    _tell(
        solver,
        path,
        changed,
        'weights' if goes_on or 'ema' not in past.state else 'averaged weights',
        taken,
    )


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


def still_wav(model: CompressionModel, wav: torch.Tensor) -> torch.Tensor:
    """What a model makes of a waveform [B, C, T], learning nothing from it: no weight and no
    statistic moves.
    """
    with eval_mode(model), torch.no_grad():
        return model(wav).wav


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


def _tell(
    solver: 'CompressionSolver', path: Path, changed: str, weights: str, taken: Mapping[str, bool]
) -> None:
    """Say in the log what was taken, and what starts afresh."""
    old = ', '.join([weights, *(name for name, is_taken in taken.items() if is_taken)])
    new = ', '.join(name for name, is_taken in taken.items() if not is_taken) or 'nothing'
    solver.logger.info('continuing from %s; taken: %s; afresh: %s', path, old, new)
    if changed:
        solver.logger.info('learnt in another way than before: %s', changed)
    if solver.adversaries.in_warmup:
        solver.logger.info(
            'the discriminators train alone for the first %d updates, and get their full weight '
            'over as '
            'many again (adversarial.warmup)',
            solver.adversaries.warmup,
        )
