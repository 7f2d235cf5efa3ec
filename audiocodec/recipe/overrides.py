"""Read, check and apply overrides, the `key=value` arguments of a run."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict

from audiocodec.recipe.rules import ACCEPTED, SECTIONS
from audiocodec.utils import config, paths
from audiocodec.utils.annotations import misfit
from audiocodec.utils.config import MISSING

SET, ADD, DELETE = '', '+', '~'
# Suffix of keys whose value is a mapping: the arguments of a class chosen by name.
PARAMETERS = '_params'


class Override(NamedTuple):
    """One override.

    Attributes:
        argument: as typed.
        action: SET, ADD (a new key, typed with + or ++) or DELETE.
        key: dotted key.
        value: None for DELETE.
    """

    argument: str
    action: str
    key: str
    value: Any

    def spelled(self) -> str:
        """Return the argument with paths that are valid in every working directory."""
        kind = _kind(self.key)
        if kind == 'sources' and isinstance(self.value, list):
            return f'{self.argument.split("=", 1)[0]}={spell(_with_absolute_paths(self.value))}'
        is_path = kind in ('path', 'source', 'sources') and isinstance(self.value, str)
        if not is_path or '${' in self.value:
            return self.argument
        value = self.value
        if kind != 'source' or paths.find(value).exists():
            value = str(paths.find(value))
        typed = value if _literal(f'{self.key}={value}') == value else spell(value)
        return f'{self.argument.split("=", 1)[0]}={typed}'


def _with_absolute_paths(sources: Sequence[Any]) -> list[Any]:
    """Return a list of data sources with paths that are valid in every working directory."""
    return [
        {**one, 'path': str(paths.find(one['path']))}
        if isinstance(one, Mapping) and isinstance(one.get('path'), str)
        else str(paths.find(one))
        if isinstance(one, str)
        else one
        for one in sources
    ]


def spell(value: Any) -> str:
    """Write a plain value in Hydra's grammar, with strings in quotes."""
    if isinstance(value, Mapping):
        return '{' + ', '.join(f'{key}: {spell(item)}' for key, item in value.items()) + '}'
    if isinstance(value, list | tuple):
        return '[' + ', '.join(spell(item) for item in value) + ']'
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    """Return a string in quotes for Hydra, which unescapes backslashes only before a quote."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ''), text)
    return f'"{escaped}"'


def key_of(argument: str) -> str:
    """Return the key of an argument, without a leading +, ++ or ~."""
    return argument.split('=', 1)[0].lstrip('+~').strip()


def read(argument: str, present: Mapping[str, Any]) -> Override:
    """Read an argument in Hydra's grammar; values of string keys are taken literally.

    Args:
        argument: `key=value`, `+key=value`, `++key=value` or `~key`.
        present: the configuration it will be applied to, plain, interpolations not resolved.

    Raises:
        ValueError: the argument has another form; the message says what to type.
    """
    key = key_of(argument)
    if '=' not in argument and not argument.startswith('~'):
        raise ValueError(f'override {argument!r}: expected key=value, e.g. dataset.batch_size=16')
    if takes_text(key, present) and not argument.startswith('~'):
        return Override(argument, ADD if argument.startswith('+') else SET, key, _literal(argument))
    try:
        (parsed,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException as error:
        reason = error.args[0].splitlines()[0]
        quoted = spell(argument.partition('=')[2])
        raise ValueError(
            f'override {argument!r} cannot be read: {reason}. If the value is a string, quote it: '
            f"'{key}={quoted}'"
        ) from error
    if parsed.is_sweep_override():
        raise ValueError(
            f'{argument}: a run takes one value per key; put a list in brackets, [...], and '
            'several runs in a file in grids/'
        )
    if parsed.is_delete():
        return Override(argument, DELETE, parsed.key_or_group, None)
    action = ADD if parsed.is_add() or parsed.is_force_add() else SET
    return Override(argument, action, parsed.key_or_group, parsed.value())


def _literal(argument: str) -> Any:
    """Return the value of `key=value`: as typed, unless Hydra parses it to a string or null.

    So quotes and null have their usual meaning, but `generate.path=1` stays a string. A key of data
    sources also takes a list.
    """
    typed = argument.split('=', 1)[1]
    try:
        (parsed,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        return typed
    value = typed if parsed.is_sweep_override() else parsed.value()
    # [a] may be the name of a folder
    is_list = isinstance(value, list) and any(
        isinstance(one, Mapping) or len(value) > 1 for one in value
    )
    is_list = is_list and _kind(key_of(argument)) == 'sources' and not paths.find(typed).exists()
    return value if value is None or isinstance(value, str) or is_list else typed


def _kind(key: str) -> str:
    return ACCEPTED[key].kind if key in ACCEPTED else ''


def takes_text(key: str, present: Mapping[str, Any]) -> bool:
    """Return whether a key accepts strings and no numbers, so that its value is taken literally."""
    if key in ACCEPTED:
        return bool(_kind(key))
    section, _, name = key.rpartition('.')
    annotation = _arguments(section, present).get(name, Any)
    return misfit('text', annotation) is None and misfit(1, annotation) is not None


def problem(override: Override, present: Mapping[str, Any], groups: Collection[str]) -> str | None:
    """Return a message if the key of an override or the type of its value is wrong.

    Args:
        override: to check.
        present: the configuration it will be applied to, plain, interpolations not resolved.
        groups: names of the config groups, for hints at misspelled ones.
    """
    argument, action, key, value = override
    if config.select(present, key) is MISSING:
        return _unread(override, present) if action == ADD else _unknown(override, present, groups)
    if action == DELETE:
        return f'{argument}: every run needs the section {key}' if key in SECTIONS else None
    here = _section(key, present)
    if not isinstance(here, Mapping) or key.endswith(PARAMETERS):
        return None
    if not isinstance(value, Mapping):
        return (
            f"{argument}: '{key}' is a section and cannot be replaced; set its keys, or disable "
            'parts with their own switch, e.g. losses.l1.weight=null'
        )
    if not value:
        first = next(iter(here), 'key')
        return f'{argument}: changes nothing; set keys of the section, e.g. {key}.{first}=...'
    return None


def repeats(override: Override, files: Mapping[str, Any]) -> str | None:
    """Return a message if a `+` override adds a key that the composed files already have."""
    argument = override.argument
    if argument[:1] != '+' or argument[:2] == '++' or config.select(files, override.key) is MISSING:
        return None
    return f'{argument}: the key {override.key} exists; type {argument[1:]}'


def _unread(override: Override, present: Mapping[str, Any]) -> str | None:
    """Return a message if nothing reads a new top-level key; the rules check deeper ones later."""
    top = override.key.split('.')[0]
    if top in present or re.search(rf'\$\{{{re.escape(top)}\b', json.dumps(present, default=str)):
        return None
    return f"{override.argument}: nothing reads the key '{top}'{config.nearest(top, present)}"


def _unknown(override: Override, present: Mapping[str, Any], groups: Collection[str]) -> str | None:
    """Return a message for a key that does not exist, unless its section accepts it."""
    section, _, name = override.key.rpartition('.')
    known = list(config.leaf_keys(present))
    if override.action != DELETE:
        choice = section.removesuffix(PARAMETERS)  # such as seanet.activation
        has_choice = choice != section and config.select(present, choice) is not MISSING
        if has_choice or section == 'evaluate.metrics':
            return None  # checked when the component is built
        if isinstance(override.value, Mapping) and '_target_' in override.value:
            in_section = isinstance(_section(section, present), Mapping)
            if in_section or SECTIONS.get(section, ()) is None:
                return None
        arguments = _arguments(section, present)
        if name in arguments:
            return None
        known += [f'{section}.{argument}' for argument in arguments]
    hint = config.nearest(override.key, [*known, *groups])
    return f"{override.argument}: there is no key '{override.key}'{hint}"


def _section(key: str, present: Mapping[str, Any]) -> Any:
    """Return the value at a key, following an interpolation such as `${encoder}`."""
    here = config.select(present, key)
    if isinstance(here, str) and here.startswith('${'):
        return config.select(present, here[2:-1])
    return here


def _arguments(section: str, present: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of the class that a section describes, with annotations; {} if none."""
    if section.split('.')[0] == 'dataset':  # each split takes the same keys as the whole section
        common = dict.fromkeys(config.select(present, 'dataset'), Any)
        return {**common, **(config.arguments('audiocodec.data.AudioDataset') or {})}
    node = _section(section, present)
    if not isinstance(node, Mapping):
        return {}
    return config.arguments(node.get('_target_')) or {}


def apply(cfg: DictConfig, override: Override) -> None:
    """Apply an override to a configuration, in place: merge a mapping, replace any other value.

    The mapping of a key that ends with `_params` is replaced too: the arguments of one class make
    no sense for another.
    """
    with open_dict(cfg):
        if override.action == DELETE:
            section, _, name = override.key.rpartition('.')
            del (OmegaConf.select(cfg, section) if section else cfg)[name]
        else:
            merge = isinstance(override.value, Mapping) and not override.key.endswith(PARAMETERS)
            OmegaConf.update(cfg, override.key, override.value, merge=merge, force_add=True)


def typed_keys(overrides: Sequence[Override]) -> Iterator[str]:
    """Yield every key that the overrides set, including those within mappings."""
    for override in overrides:
        yield override.key
        if isinstance(override.value, Mapping):
            yield from config.leaf_keys(override.value, f'{override.key}.')
