"""Rules of a configuration that no single component checks: keys, sections, what fits together."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, cast

from dora.conf import SlurmConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from audiocodec.data import SPLITS
from audiocodec.recipe.rules import ACCEPTED, SECTIONS, SWITCH
from audiocodec.utils import config
from audiocodec.utils.annotations import is_number, misfit
from audiocodec.utils.config import MISSING, ConfigError


def rule_problems(cfg: DictConfig) -> tuple[dict[str, Any], list[str], bool]:
    """Check a composed configuration against the rules that need no component.

    Returns:
        The configuration as dicts and lists, the problems, and whether its parts can be built:
        whether each section is one, and the audio's sample rate and channels are possible.

    Raises:
        ConfigError: an interpolation leads nowhere.
    """
    try:
        plain = config.to_plain(cfg)
    except OmegaConfBaseException as error:
        key = str(error.full_key or '')
        value = config.select(cast(dict[str, Any], OmegaConf.to_container(cfg)), key)
        raise ConfigError(f'{key}={value}: {str(error).splitlines()[0]}') from error
    problems = [*_value_problems(plain), *_key_problems(plain)]
    wrong_sections = list(_section_problems(plain))
    if wrong_sections:
        return plain, problems + wrong_sections, False
    for find in (
        _weight_problems,
        _trains_nothing,
        _data_problems,
        _metric_problems,
        _slurm_problems,
        mismatches,
        _length_problems,
    ):
        problems += find(plain)
    is_sound = all(ACCEPTED[key].check(plain[key]) for key in ('sample_rate', 'channels'))
    return plain, problems, is_sound


def _section_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Sections that are none. What is in them can only be looked at when all are."""
    for section in SECTIONS:
        value = config.select(plain, section)
        if isinstance(value, Mapping):
            continue
        if value is MISSING:
            if isinstance(
                config.select(plain, section.rpartition('.')[0]) if '.' in section else plain,
                Mapping,
            ):
                yield f'the section {section} is missing'
        else:
            yield f'{section}={value!r}: expected a section (keys and values)'


def _value_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    for key, rule in ACCEPTED.items():
        value = config.select(plain, key)
        if value is not MISSING:
            if not rule.check(value):
                yield f'{key}={value}: expected {rule.accepted}'
        elif '.' not in key or isinstance(config.select(plain, key.rpartition('.')[0]), Mapping):
            yield f'{key} is missing: expected {rule.accepted}'
    for split in SPLITS:
        for name in ('batch_size', 'num_workers'):
            value = config.select(plain, f'dataset.{split}.{name}')
            if value is not MISSING and not ACCEPTED[f'dataset.{name}'].check(value):
                yield (
                    f'dataset.{split}.{name}={value}: expected '
                    f'{ACCEPTED[f"dataset.{name}"].accepted}'
                )


def _key_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Keys that nothing reads: added by hand, as keys of the command line are known to exist."""
    for section, others in SECTIONS.items():
        node = config.select(plain, section)
        if others is None or not isinstance(node, Mapping):
            continue
        known = [
            *others,
            *(
                key[len(section) + 1 :].split('.')[0]
                for key in (*ACCEPTED, *SECTIONS)
                if key.startswith(f'{section}.')
            ),
        ]
        for key in node:
            if key not in known:
                yield f'{section}.{key}: there is no such key{config.nearest(str(key), known)}'
    for section in ('dataset', *(f'dataset.{split}' for split in SPLITS)):
        node = config.select(plain, section)
        for key in ('_target_', '_args_', '_partial_', 'weight'):  # of components
            if isinstance(node, Mapping) and key in node:
                yield f'{section}.{key}: there is no such key'
    for section, parts in (('seanet', ('encoder', 'decoder')), ('rvq', ('quantizer',))):
        nodes = [
            node
            for part in parts
            if isinstance(node := config.select(plain, f'model.{part}'), Mapping)
        ]
        shared = plain.get(section)
        if (
            nodes
            and isinstance(shared, Mapping)
            and any(key in node for node in nodes for key in shared)
        ):
            for key in shared:
                if not any(key in node for node in nodes):
                    yield (
                        f'{section}.{key}: there is no such '
                        f'key{config.nearest(str(key), shared.keys() - {key})}'
                    )


def _weight_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    for name, node in plain['losses'].items():
        if not isinstance(node, Mapping):
            yield (
                f'losses.{name}={node!r}: expected a section; turn a loss off with '
                f'losses.{name}.weight=null'
            )
            continue
        weight = node.get('weight')
        if 'weight' not in node:
            yield (
                f'losses.{name}.weight is missing: expected null (off), 0 (reported only) or a '
                'weight above 0'
            )
        if weight is not None and not (is_number(weight) and weight >= 0):
            yield (
                f'losses.{name}.weight={weight}: expected null (off), 0 (reported only) or a '
                'weight above 0'
            )
        if '_target_' in node:
            continue
        if name not in ('adv', 'feat', 'commitment'):
            yield (
                f'losses.{name}: a loss needs a _target_, the class that computes it'
                + config.nearest(name, plain['losses'].keys() - {name})
            )
        for key in node.keys() - {'weight'}:
            yield f'losses.{name}.{key}: there is no such key{config.nearest(str(key), ["weight"])}'


def _trains_nothing(plain: Mapping[str, Any]) -> Iterator[str]:
    heard = ('adv', 'feat') if plain['adversarial'].get('discriminators') else ()
    weights = [
        node.get('weight')
        for name, node in plain['losses'].items()
        if isinstance(node, Mapping) and ('_target_' in node or name in heard)
    ]
    if not any(weight is not None and is_number(weight) and weight > 0 for weight in weights):
        yield 'losses: no loss has a weight above 0, nothing would be trained'


def _metric_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    for name, enabled in plain['evaluate']['metrics'].items():
        if name not in plain['metrics']:
            yield (
                f'evaluate.metrics.{name}={enabled}: there is no metrics.{name} node'
                + config.nearest(name, plain['metrics'])
            )
        if not SWITCH.check(enabled):
            yield f'evaluate.metrics.{name}={enabled}: expected {SWITCH.accepted}'
    for name, node in plain['metrics'].items():
        if not isinstance(node, Mapping):
            yield (
                f'metrics.{name}={node!r}: expected a section; turn a metric off with '
                f'evaluate.metrics.{name}=false'
            )


def mismatches(plain: Mapping[str, Any]) -> Iterator[str]:
    """Parts of the model that do not fit together."""
    encoder, decoder, quantizer = (
        part if isinstance(part, Mapping) else {}
        for part in map(plain['model'].get, ('encoder', 'decoder', 'quantizer'))
    )
    for name, note in (
        ('ratios', 'strides do not match: the decoder would give back another length'),
        ('dimension', 'the latents do not fit'),
    ):
        ours, theirs = encoder.get(name), decoder.get(name)
        if ours is not None and theirs is not None and ours != theirs:
            yield (
                f'encoder.{name}={ours} and decoder.{name}={theirs}: {note}; set seanet.{name} '
                'alone'
            )
    if {'dimension'} <= encoder.keys() & quantizer.keys() and encoder['dimension'] != quantizer[
        'dimension'
    ]:
        yield (
            f'quantizer.dimension={quantizer["dimension"]}: must agree with '
            f'seanet.dimension={encoder["dimension"]}'
        )


def _data_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    source = plain['datasource']
    if not all(
        map(
            is_number,
            (
                *(source.get(f'max_{name}') for name in ('sample_rate', 'channels')),
                plain['sample_rate'],
                plain['channels'],
            ),
        )
    ):
        return
    if source['max_sample_rate'] < plain['sample_rate']:
        yield (
            f'datasource.max_sample_rate={source["max_sample_rate"]} is below '
            f'sample_rate={plain["sample_rate"]}: '
            'the data has no such high frequencies; choose a recipe with a lower rate, or other '
            'data'
        )
    if source['max_channels'] < plain['channels']:
        yield (
            f'datasource.max_channels={source["max_channels"]} is below '
            f'channels={plain["channels"]}: '
            'a stereo recipe needs stereo data; choose a mono recipe, or other data'
        )


def _length_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """A schedule that ends with a run of which nobody knows the length."""
    length, schedule = plain['optim'].get('total_updates'), plain['optim']['schedule']
    if length is None and any(
        key.endswith('_steps') and value is None for key, value in schedule.items()
    ):
        yield (
            f'optim.total_updates=None: the schedule {schedule.get("_target_")} needs the length '
            'of the run, which '
            'optim.updates_per_epoch=null leaves to the data; type optim.total_updates=N'
        )


def _slurm_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    known = {field.name: field.type for field in fields(SlurmConfig)}
    for key, value in plain['slurm'].items():
        if key not in known:
            yield f'slurm.{key}: there is no such key{config.nearest(str(key), known)}'
        elif accepted := misfit(value, known[key]):
            yield f'slurm.{key}={value}: expected {accepted}'
