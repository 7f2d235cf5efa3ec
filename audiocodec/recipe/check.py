"""Rules of a configuration that no single component checks: keys, sections, what fits together."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, cast

from dora.conf import SlurmConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from audiocodec.data import SPLITS
from audiocodec.dsp.loudness import MOST_CHANNELS
from audiocodec.recipe.rules import ACCEPTED, POSITIVE_INTEGER, SECTIONS, SWITCH
from audiocodec.run.launch import find_place
from audiocodec.utils import config
from audiocodec.utils.annotations import is_number, misfit
from audiocodec.utils.config import MISSING, ConfigError

# What the audio of a run is.
_FORMAT = ('sample_rate', 'output_sample_rate', 'channels')
# Keys of components, which the sections of `dataset` are not.
_COMPONENT_KEYS = ('_target_', '_args_', '_partial_', 'weight')
_WEIGHTS = 'null (off), 0 (reported only) or a weight above 0'


def rule_problems(cfg: DictConfig) -> tuple[dict[str, Any], list[str], bool]:
    """Check a composed configuration against the rules that need no component.

    Returns:
        The configuration as dicts and lists, the problems, and whether its parts can be built: all
        sections are mappings, and the sample rate and number of channels are valid.

    Raises:
        ConfigError: an interpolation cannot be resolved.
    """
    try:
        plain = config.to_plain(cfg)
    except OmegaConfBaseException as error:
        key = str(error.full_key or '')
        value = config.select(cast(dict[str, Any], OmegaConf.to_container(cfg)), key)
        raise ConfigError(f'{key}={value}: {str(error).splitlines()[0]}') from error
    problems = [*_value_problems(plain), *_key_problems(plain), *_shared_key_problems(cfg)]
    wrong_sections = list(_section_problems(plain))
    if wrong_sections:  # the checks below look into the sections
        return plain, problems + wrong_sections, False
    for find in (
        _weight_problems,
        _training_problems,
        _data_problems,
        _batch_problems,
        _metric_problems,
        _slurm_problems,
        _length_problems,
    ):
        problems += find(plain)
    can_build = all(ACCEPTED[key].check(plain[key]) for key in _FORMAT)
    return plain, problems, can_build


def _section_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield sections that are missing or are not mappings."""
    for section in SECTIONS:
        value = config.select(plain, section)
        if isinstance(value, Mapping):
            continue
        if value is not MISSING:
            yield f'{section}={value!r}: expected a section (keys and values)'
        elif _parent_exists(section, plain):
            yield f'the section {section} is missing'


def _value_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield keys with a value that their rule does not accept, or without one."""
    for key, rule in ACCEPTED.items():
        value = config.select(plain, key)
        if value is not MISSING:
            if not rule.check(value):
                yield f'{key}={value}: expected {rule.accepted}'
        elif _parent_exists(key, plain):
            yield f'{key} is missing: expected {rule.accepted}'
    for split in SPLITS:
        for name in ('batch_size', 'num_workers'):
            rule = ACCEPTED[f'dataset.{name}']
            value = config.select(plain, f'dataset.{split}.{name}')
            if value is not MISSING and not rule.check(value):
                yield f'dataset.{split}.{name}={value}: expected {rule.accepted}'


def _parent_exists(key: str, plain: Mapping[str, Any]) -> bool:
    """True if the section that a key belongs to exists; otherwise that is the problem to report."""
    parent = key.rpartition('.')[0]
    return not parent or isinstance(config.select(plain, parent), Mapping)


def _key_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield keys that nothing reads.

    They come from files and from `+key=value`: overrides of unknown keys are refused earlier.
    """
    for section, others in SECTIONS.items():
        node = config.select(plain, section)
        if others is None or not isinstance(node, Mapping):
            continue
        known = [*others, *_known_keys(section)]
        for key in node:
            if key not in known:
                yield f'{section}.{key}: there is no such key{config.nearest(str(key), known)}'
    for section in ('dataset', *(f'dataset.{split}' for split in SPLITS)):
        node = config.select(plain, section)
        for key in _COMPONENT_KEYS:
            if isinstance(node, Mapping) and key in node:
                yield f'{section}.{key}: there is no such key'


def _known_keys(section: str) -> list[str]:
    """Return the keys of a section that have a rule or are sections themselves."""
    prefix = f'{section}.'
    below = [key for key in (*ACCEPTED, *SECTIONS) if key.startswith(prefix)]
    return [key.removeprefix(prefix).split('.')[0] for key in below]


def _shared_key_problems(cfg: DictConfig) -> Iterator[str]:
    """Yield keys that nothing copies, of sections from which components copy their arguments."""
    raw = config.unresolved(cfg)
    copied = config.copied_keys(raw)
    for section, shared in raw.items():
        known = section in SECTIONS or section == 'dora'
        if known or not isinstance(shared, Mapping) or '_target_' in shared:
            continue
        used = {key.split('.')[1] for key in copied if key.startswith(f'{section}.')}
        if not used:  # other components are chosen, which have no use for the section
            continue
        # A component that copies the section may have a value of its own for some of its keys.
        for _, node in config.targets(raw):
            if any(key.startswith(f'{section}.') for key in config.copied_keys(dict(node))):
                used |= node.keys()
        for key in shared:
            if key not in used:
                hint = config.nearest(str(key), shared.keys() - {key})
                yield f'{section}.{key}: there is no such key{hint}'


def _weight_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield losses with an invalid weight, or that nothing computes."""
    for name, node in plain['losses'].items():
        if not isinstance(node, Mapping):
            yield (
                f'losses.{name}={node!r}: expected a section; turn a loss off with '
                f'losses.{name}.weight=null'
            )
            continue
        weight = node.get('weight')
        if 'weight' not in node:
            yield f'losses.{name}.weight is missing: expected {_WEIGHTS}'
        if weight is not None and not (is_number(weight) and weight >= 0):
            yield f'losses.{name}.weight={weight}: expected {_WEIGHTS}'
        if '_target_' in node:
            continue
        for key in node.keys() - {'weight'}:
            yield f'losses.{name}.{key}: there is no such key{config.nearest(str(key), ["weight"])}'


def _training_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield a problem if parts of a fresh model would be frozen, or no loss trains the model."""
    only = plain['train'].get('only')
    if only is not None and plain.get('continue_from') is None:
        yield (
            f'train.only={only}: the other parts of a new model would never be trained; set '
            'continue_from to a trained model'
        )
    # Without discriminators, the adversarial losses do not exist whatever their weight.
    adversarial = ('adv', 'feat') if plain['adversarial'].get('discriminators') else ()
    for name, node in plain['losses'].items():
        if not isinstance(node, Mapping) or ('_target_' not in node and name not in adversarial):
            continue
        weight = node.get('weight')
        if weight is not None and is_number(weight) and weight > 0:
            return
    yield 'losses: no loss has a weight above 0, nothing would be trained'


def _metric_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield switches of unknown metrics, and metrics that are not sections."""
    for name, enabled in plain['evaluate']['metrics'].items():
        if name not in plain['metrics']:
            hint = config.nearest(name, plain['metrics'])
            yield (
                f'evaluate.metrics.{name}={enabled}: there is no metrics.{name}{hint}; define it '
                f"with 'metrics.{name}={{_target_: my_package.MyMetric}}'"
            )
        if not SWITCH.check(enabled):
            yield f'evaluate.metrics.{name}={enabled}: expected {SWITCH.accepted}'
    for name, node in plain['metrics'].items():
        if not isinstance(node, Mapping):
            yield (
                f'metrics.{name}={node!r}: expected a section; turn a metric off with '
                f'evaluate.metrics.{name}=false'
            )
        elif name not in plain['evaluate']['metrics']:
            yield (f'metrics.{name}: is not switched on or off; add evaluate.metrics.{name}=true')


def _data_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the recipe needs and the data cannot offer."""
    source = plain['datasource']
    most, channels = source.get('max_channels'), plain['channels']
    if not is_number(most) or not is_number(channels):
        return  # reported by their rules
    if most < channels:
        advice = 'a stereo recipe needs stereo data; choose a mono recipe, or other data'
        if channels > 2:
            advice = f'set it to {channels} if all files have {channels} channels (or one)'
        yield f'datasource.max_channels={most} is below channels={channels}: {advice}'
    if channels > MOST_CHANNELS and plain['evaluate']['metrics'].get('loudness') is True:
        yield (
            f'evaluate.metrics.loudness=true: loudness is defined for up to {MOST_CHANNELS} '
            f'channels, not for channels={channels}; use evaluate.metrics.loudness=false'
        )


def _batch_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield a batch that cannot be divided into micro-batches of equal size."""
    number = plain['optim'].get('accumulate')
    size = {**plain['dataset'], **plain['dataset']['train']}.get('batch_size')
    if not all(map(POSITIVE_INTEGER.check, (number, size))) or number == 1:
        return  # reported by their rules
    workers = find_place().world_size
    if size % (number * workers):
        each = '' if workers == 1 else f' on each of {workers} workers'
        yield (
            f'optim.accumulate={number}: dataset.batch_size={size} does not divide into {number} '
            f'micro-batches of equal size{each}; use a multiple of {number * workers}'
        )


def _length_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield a schedule that needs the length of the run where it is not known."""
    if plain['optim'].get('total_updates') is not None:
        return
    schedule = plain['optim']['schedule']
    if any(key.endswith('_steps') and value is None for key, value in schedule.items()):
        yield (
            f'optim.total_updates=None: the schedule {schedule.get("_target_")} needs the length '
            'of the run, which optim.updates_per_epoch=null leaves to the data; type '
            'optim.total_updates=N'
        )


def _slurm_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield options that Dora's Slurm configuration lacks or that have the wrong type."""
    known = {field.name: field.type for field in fields(SlurmConfig)}
    for key, value in plain['slurm'].items():
        if key not in known:
            yield f'slurm.{key}: there is no such key{config.nearest(str(key), known)}'
        elif accepted := misfit(value, known[key]):
            yield f'slurm.{key}={value}: expected {accepted}'
