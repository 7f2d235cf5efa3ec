"""Compose a configuration: Hydra merges the chosen files, then the overrides are applied."""

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import audiocodec.recipe.resolvers  # noqa: F401 - registers what the files refer to
from audiocodec.recipe.inheritance import drop_inherited, unread
from audiocodec.recipe.overrides import Override, apply, key_of, problem, read, repeats, typed_keys
from audiocodec.recipe.rules import ACCEPTED
from audiocodec.utils import config, paths
from audiocodec.utils.config import ConfigError

CONFIG = 'config'
# Top-level keys that components copy. A copy with another value would contradict the waveforms.
_SHARED = ('${sample_rate}', '${output_sample_rate}', '${channels}')
_Stamp = frozenset[tuple[Path, int]]


class OwnConfigs(SearchPathPlugin):
    """Search `config/` of the working directory too, after the project's configurations."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder, if it exists."""
        folder = paths.own_config_folder()
        if folder is not None:
            search_path.append('audiocodec', f'file://{folder}')


Plugins.instance().register(OwnConfigs)


class Composed(NamedTuple):
    """Configuration with its defaults and overrides; interpolations are not resolved.

    Attributes:
        root: the root defaults, without a recipe.
        cfg: with recipe and overrides, except for overrides that have problems.
        argv: the overrides, with paths that are valid in every working directory.
        problems: messages by override, or by key for those that no single override causes.
    """

    root: DictConfig
    cfg: DictConfig
    argv: list[str]
    problems: dict[str, str]


def compose(folder: Path, argv: Sequence[str]) -> Composed:
    """Compose a configuration.

    Args:
        folder: holds `config.yaml` and the config groups.
        argv: overrides; the last one for a key counts.

    Raises:
        ConfigError: files cannot be read or composed.
    """
    last = {argument.split('=', 1)[0].strip(): argument for argument in argv}
    argv = list(last.values())
    stamp = files_stamp(folder)
    options = _options(folder, stamp)
    choices = [argument for argument in argv if key_of(argument).split('@')[0] in options]
    values = [argument for argument in argv if argument not in choices]
    problems = {argument: _choice_problem(argument, options) for argument in choices}
    root = _files(folder, stamp, ('~solver',))
    valid_choices = tuple(choice for choice in choices if problems[choice] is None)
    cfg = _files(folder, stamp, valid_choices).copy()
    _allow_targets(cfg, values)
    defaults = config.unresolved(root)
    drop_inherited(cfg, defaults)
    for layer in _layers(valid_choices):
        drop_inherited(cfg, config.unresolved(_files(folder, stamp, layer)))
    overrides = _apply_values(cfg, values, options, problems)
    spelled = {override.argument: override.spelled() for override in overrides}
    found = {argument: text for argument in argv if (text := problems[argument]) is not None}
    found.update(_contradictions(defaults, config.unresolved(cfg)))
    return Composed(root, cfg, [spelled.get(argument, argument) for argument in argv], found)


def _layers(choices: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the choices of each layer below the last, the lowest first.

    A recipe; then what is added to it, such as `+training=codec`; then other options for its
    components, such as `schedule=constant`.
    """
    recipe = tuple(choice for choice in choices if key_of(choice) == 'solver')
    added = tuple(choice for choice in choices if choice in recipe or choice.startswith('+'))
    for layer in dict.fromkeys((recipe, added)):
        if layer != tuple(choices):
            yield layer


def _allow_targets(cfg: DictConfig, arguments: Sequence[str]) -> None:
    """Allow the packages of `allow_targets`: whose arguments are checked next may be of theirs."""
    allowed = [cfg.get('allow_targets')]
    for argument in arguments:
        if key_of(argument) == 'allow_targets':
            with suppress(ValueError):  # reported with the other overrides
                allowed.append(read(argument, config.unresolved(cfg)).value)
    for targets in map(config.to_plain, allowed):
        if ACCEPTED['allow_targets'].check(targets):
            config.allow_targets(*targets)


def config_groups(folder: Path) -> list[str]:
    """List the config groups of a folder, such as `solver` and `solver/compression`."""
    return list(_options(folder, files_stamp(folder)))


def _apply_values(
    cfg: DictConfig,
    arguments: Sequence[str],
    groups: Collection[str],
    problems: dict[str, str | None],
) -> list[Override]:
    """Read and check overrides and apply the valid ones, in place.

    Args:
        cfg: the composed files.
        arguments: as typed.
        groups: names of the config groups.
        problems: messages by argument, None for valid ones; every argument is added.

    Returns:
        The valid overrides.
    """
    chosen = config.unresolved(cfg)
    present = _with_classes(cfg, chosen, arguments)
    valid = []
    for argument in arguments:
        try:
            override = read(argument, present)
            problems[argument] = repeats(override, chosen) or problem(override, present, groups)
        except ValueError as error:
            problems[argument] = str(error)
            continue
        if problems[argument] is None:
            valid.append(override)
    for override in valid:
        with readable_errors():
            apply(cfg, override)
    drop_inherited(cfg, chosen, set(typed_keys(valid)))
    left = set(unread(cfg, chosen))
    for override in valid:
        for key in left.intersection(typed_keys([override])):
            problems[override.argument] = f'{override.argument}: nothing reads {key} any more'
    return valid


def _with_classes(
    cfg: DictConfig, plain: dict[str, Any], arguments: Sequence[str]
) -> dict[str, Any]:
    """Return the configuration, plain, with the classes and sections that the overrides add.

    Overrides may come in any order, so the keys of one may exist only thanks to another.
    """
    adding = [argument for argument in arguments if _adds_keys(argument)]
    if not adding:
        return plain
    changed = cfg.copy()
    for argument in adding:
        try:
            override = read(argument, plain)
        except ValueError:
            continue  # reported when all of them are read
        if problem(override, plain, ()) is None:
            apply(changed, override)
    return config.unresolved(changed)


def _adds_keys(argument: str) -> bool:
    value = argument.partition('=')[2].lstrip()
    return key_of(argument).endswith('_target_') or value.startswith('{') or '${' in value


def _contradictions(
    defaults: Mapping[str, Any], plain: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield keys that copy the sample rate or channels and have another value, with a message."""
    for key in config.leaf_keys(defaults):
        copied, value = config.select(defaults, key), config.select(plain, key)
        if copied not in _SHARED or value == copied or value is config.MISSING:
            continue
        if '.' not in key:  # a default at the root, which may be set
            continue
        if isinstance(value, str | Mapping):  # another interpolation, or a section in its place
            continue
        name = config.origins(plain, copied[2:-1])[-1]
        if value != plain.get(name):
            yield key, f'{key}={value}: must agree with {name}={plain.get(name)}; set only {name}'


def files_stamp(folder: Path) -> _Stamp:
    """Return all configuration files with their modification times, the key of the caches below."""
    folders = [folder, *filter(None, [paths.own_config_folder()])]
    return frozenset(
        (path, path.stat().st_mtime_ns) for folder in folders for path in folder.rglob('*.yaml')
    )


@functools.lru_cache(maxsize=64)  # Hydra takes a second
def _files(folder: Path, stamp: _Stamp, choices: tuple[str, ...]) -> DictConfig:
    """Compose the files of the chosen options; callers must copy the result to change it."""
    try:
        with _search(folder), readable_errors():
            return hydra.compose(CONFIG, list(choices))
    except ConfigError as error:
        raise ConfigError(_explained(str(error), choices)) from error


def _explained(message: str, choices: Sequence[str]) -> str:
    """Return what to type where Hydra refers to lists of defaults."""
    for choice in choices:
        group = key_of(choice)
        if re.match(rf'{group} appears more than once|Multiple values for {group}\b', message):
            typed = choice.lstrip('+')
            return f'{choice}: the recipe has a {group} already; to replace it, type {typed}'
        if message.startswith(f"Could not override '{group}'. No match"):
            return f'{choice}: the recipe has no {group} to replace; to add it, type +{choice}'
    return message


@functools.lru_cache(maxsize=4)
def _options(folder: Path, stamp: _Stamp) -> dict[str, list[str]]:
    """List the options of every config group."""
    with _search(folder) as loader:
        return {group: list(_options_of(loader, group)) for group in _groups(loader, '')}


@contextmanager
def _search(folder: Path) -> Iterator[Any]:
    """Provide Hydra's loader of the configurations in a folder."""
    with hydra.initialize_config_dir(str(folder.resolve()), job_name='train', version_base='1.3'):
        instance = GlobalHydra.instance().hydra
        assert instance is not None
        yield instance.config_loader


def _groups(loader: Any, parent: str) -> Iterator[str]:
    """Yield every config group, including those with options only in subfolders, like `solver`."""
    for name in loader.get_group_options(parent, ObjectType.GROUP):
        if name != 'hydra' or parent:
            group = f'{parent}/{name}'.lstrip('/')
            yield group
            yield from _groups(loader, group)


def _options_of(loader: Any, group: str, prefix: str = '') -> Iterator[str]:
    """Yield all options of a config group, including those of its subgroups."""
    here = f'{group}/{prefix}'.rstrip('/')
    for name in loader.get_group_options(here, ObjectType.CONFIG):
        if not name.startswith('_'):  # files that options include
            yield prefix + name
    for sub in loader.get_group_options(here, ObjectType.GROUP):
        yield from _options_of(loader, group, f'{prefix}{sub}/')


def _choice_problem(argument: str, options: Mapping[str, Sequence[str]]) -> str | None:
    """Return a message if an override chooses an option that its group lacks."""
    if '=' not in argument or argument.startswith('~') or '@' in argument.split('=', 1)[0]:
        return None  # Hydra reports problems of these
    if argument.startswith('++'):
        return f'{argument}: type {argument[1:]} for an option of a group'
    value = argument.split('=', 1)[1].strip()
    known = options[key_of(argument)]
    if value in known:
        return None
    hint = config.nearest(value, known)
    return f'{argument}: no such option{hint} (available: {", ".join(known)})'


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf into one-line messages.

    Raises:
        ConfigError: in place of their errors.
    """
    try:
        yield
    except MissingConfigException as error:
        raise ConfigError(str(error).split('\nCheck that')[0]) from error
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        key = getattr(error, 'full_key', None)
        text = re.sub(r'\s*\n\s*', '; ', str(cause).strip())
        raise ConfigError(f'{key}: {text}' if key else text) from error
