"""Overrides, the `key=value` arguments of a run: read, checked against a configuration, and applied
to it.
"""

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
PARAMETERS = (
    '_params'  # ends the key of a mapping that is a value: the arguments of a class chosen by name
)


class Override(NamedTuple):
    """One override.

    Attributes:
        argument: as it was typed.
        action: SET, ADD (a key of your own, typed with + or ++) or DELETE.
        key: dotted.
        value: None for DELETE.
    """

    argument: str
    action: str
    key: str
    value: Any

    def spelled(self) -> str:
        """The argument in a form that means the same in every working directory."""
        kind = _kind(self.key)
        if kind not in ('path', 'source') or not isinstance(self.value, str) or '${' in self.value:
            return self.argument
        value = self.value
        if kind == 'path' or paths.find(value).exists():
            value = str(paths.find(value))
        typed = value if _literal(f'{self.key}={value}') == value else spell(value)
        return f'{self.argument.split("=", 1)[0]}={typed}'


def spell(value: Any) -> str:
    """Writes a plain value in Hydra's grammar, strings in quotes."""
    if isinstance(value, Mapping):
        return '{' + ', '.join(f'{key}: {spell(item)}' for key, item in value.items()) + '}'
    if isinstance(value, list | tuple):
        return '[' + ', '.join(spell(item) for item in value) + ']'
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    """A string in quotes, in which Hydra reads backslashes as they are, but for those before a
    quote.
    """
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ''), text)
    return f'"{escaped}"'


def key_of(argument: str) -> str:
    """The key of an argument, without the signs before it."""
    return argument.split('=', 1)[0].lstrip('+~').strip()


def read(argument: str, present: Mapping[str, Any]) -> Override:
    """Reads an argument in Hydra's grammar; the value of a path or another string is taken as it is
    typed.

    Args:
        argument: `key=value`, `+key=value`, `++key=value` or `~key`.
        present: the configuration it will be applied to, plain, interpolations not resolved.

    Raises:
        ValueError: it has no such form; the message says what to type.
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
            f'{argument}: these are several values, and a run takes one; a file in grids/ trains '
            'several'
        )
    action = (
        DELETE if parsed.is_delete() else ADD if parsed.is_add() or parsed.is_force_add() else SET
    )
    return Override(
        argument, action, parsed.key_or_group, None if action == DELETE else parsed.value()
    )


def _literal(argument: str) -> str | None:
    """The value of `key=value`: what Hydra's grammar makes of it if that is a string or null, else
    as typed.
    """
    typed = argument.split('=', 1)[1]
    try:
        (parsed,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        return typed
    value = typed if parsed.is_sweep_override() else parsed.value()
    return value if value is None or isinstance(value, str) else typed


def _kind(key: str) -> str:
    return ACCEPTED[key].kind if key in ACCEPTED else ''


def takes_text(key: str, present: Mapping[str, Any]) -> bool:
    """Whether a key holds a string, so that no other reading of its value makes sense."""
    if key in ACCEPTED:
        return bool(_kind(key))
    annotation = _arguments(key.rpartition('.')[0], present).get(key.rpartition('.')[2], Any)
    return misfit('text', annotation) is None and misfit(1, annotation) is not None


def problem(override: Override, present: Mapping[str, Any], groups: Collection[str]) -> str | None:
    """What is wrong with the key of an override, or with the form of its value; None if nothing is.

    Args:
        override: to look at.
        present: the configuration it will be applied to, plain, interpolations not resolved.
        groups: names of the config groups, which may be meant.
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
            f"{argument}: '{key}' is a section, which keeps its form; set keys in it, or turn a "
            'part off through '
            'its own switch, e.g. losses.l1.weight=null'
        )
    return (
        None
        if value
        else (
            f'{argument}: changes nothing; set keys in it, e.g. {key}.{next(iter(here), "key")}=...'
        )
    )


def repeats(override: Override, files: Mapping[str, Any]) -> str | None:
    """What is wrong with an override that is to add a key which the composed files have; None if
    nothing is.
    """
    argument = override.argument
    if argument[:1] != '+' or argument[:2] == '++' or config.select(files, override.key) is MISSING:
        return None
    return f'{argument}: the key {override.key} exists; type {argument[1:]}'


def _unread(override: Override, present: Mapping[str, Any]) -> str | None:
    """What is wrong with a new key at the top, unless an interpolation reads it; deeper ones are
    validated later.
    """
    top = override.key.split('.')[0]
    if top in present or re.search(rf'\$\{{{re.escape(top)}\b', json.dumps(present, default=str)):
        return None
    return f"{override.argument}: nothing reads the key '{top}'{config.nearest(top, present)}"


def _unknown(override: Override, present: Mapping[str, Any], groups: Collection[str]) -> str | None:
    """What is wrong with a key that is not there, unless what it stands in takes it."""
    section, _, name = override.key.rpartition('.')
    known = list(config.leaf_keys(present))
    if override.action != DELETE:
        is_component = isinstance(override.value, Mapping) and '_target_' in override.value
        is_open = SECTIONS.get(section, ()) is None or isinstance(
            _section(section, present), Mapping
        )
        if (
            (is_component and is_open)
            or section.endswith(PARAMETERS)
            or section == 'evaluate.metrics'
        ):
            return None
        arguments = _arguments(section, present)
        if name in arguments:
            return None
        known += [f'{section}.{argument}' for argument in arguments]
    hint = config.nearest(override.key, [*known, *groups])
    return f"{override.argument}: there is no key '{override.key}'{hint}"


def _section(key: str, present: Mapping[str, Any]) -> Any:
    """What stands at a key, through a copy such as `${encoder}`."""
    here = config.select(present, key)
    if isinstance(here, str) and here.startswith('${'):
        return config.select(present, here[2:-1])
    return here


def _arguments(section: str, present: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments, with their annotations, of the class that a section describes; empty where
    there is none.
    """
    if section.split('.')[0] == 'dataset':  # each split takes what the whole section does
        common = dict.fromkeys(config.select(present, 'dataset'), Any)
        return {**common, **(config.arguments('audiocodec.data.AudioDataset') or {})}
    node = _section(section, present)
    return (config.arguments(node.get('_target_')) or {}) if isinstance(node, Mapping) else {}


def apply(cfg: DictConfig, override: Override) -> None:
    """Applies an override to a configuration, in place: a mapping is merged, anything else replaces
    what is there.

    The mapping of a key that ends with `_params` replaces too: the arguments of one class make no
    sense for another.
    """
    with open_dict(cfg):
        if override.action == DELETE:
            section, _, name = override.key.rpartition('.')
            del (OmegaConf.select(cfg, section) if section else cfg)[name]
        else:
            merge = isinstance(override.value, Mapping) and not override.key.endswith(PARAMETERS)
            OmegaConf.update(cfg, override.key, override.value, merge=merge, force_add=True)


def typed_keys(overrides: Sequence[Override]) -> Iterator[str]:
    """Every key that the overrides set, those within mappings included."""
    for override in overrides:
        yield override.key
        if isinstance(override.value, Mapping):
            yield from config.leaf_keys(override.value, f'{override.key}.')
