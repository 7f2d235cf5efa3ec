"""From a list of overrides to a configuration: Hydra composes the chosen files, then the values are
applied.
"""

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from audiocodec.recipe.inheritance import drop_inherited
from audiocodec.recipe.overrides import Override, apply, key_of, problem, read, repeats, typed_keys
from audiocodec.utils import config, paths
from audiocodec.utils.config import ConfigError

CONFIG = 'config'
# Keys that every component copies from the top. A copy with a value of its own would contradict the
# waveforms.
_SHARED = ('${sample_rate}', '${channels}')
_Stamp = frozenset[tuple[Path, int]]


class OwnConfigs(SearchPathPlugin):
    """Hydra looks in `config/` of the working directory too, after the project's configurations."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Adds the folder, if there is one."""
        folder = paths.own_config_folder()
        if folder is not None:
            search_path.append('audiocodec', f'file://{folder}')


Plugins.instance().register(OwnConfigs)


class Composed(NamedTuple):
    """A configuration and what it is made of; interpolations are not resolved.

    Attributes:
        root: the root defaults, without a recipe.
        cfg: with recipe and overrides.
        argv: the overrides in a form that means the same in every working directory.
        problems: what is wrong, by the override, which `cfg` then lacks, or by the key.
    """

    root: DictConfig
    cfg: DictConfig
    argv: list[str]
    problems: dict[str, str]


def compose(folder: Path, argv: Sequence[str]) -> Composed:
    """Composes a configuration.

    Args:
        folder: of `config.yaml` and the config groups.
        argv: overrides; of several for one key, the last counts.

    Raises:
        ConfigError: files that cannot be read or composed.
    """
    argv = list({argument.split('=', 1)[0].strip(): argument for argument in argv}.values())
    stamp = _stamp(folder)
    options = _options(folder, stamp)
    choices = [argument for argument in argv if key_of(argument).split('@')[0] in options]
    problems = {argument: _choice_problem(argument, options) for argument in choices}
    root = _files(folder, stamp, ('~solver',))
    cfg = _files(
        folder, stamp, tuple(choice for choice in choices if problems[choice] is None)
    ).copy()
    drop_inherited(cfg, config.unresolved(root))
    overrides = _apply_values(
        cfg, [argument for argument in argv if argument not in choices], options, problems
    )
    spelled = {override.argument: override.spelled() for override in overrides}
    found = {argument: text for argument in argv if (text := problems[argument]) is not None}
    return Composed(
        root,
        cfg,
        [spelled.get(argument, argument) for argument in argv],
        {**found, **dict(_contradictions(root, cfg))},
    )


def config_groups(folder: Path) -> list[str]:
    """The config groups of a folder, such as `solver` and `solver/compression`."""
    return list(_options(folder, _stamp(folder)))


def _apply_values(
    cfg: DictConfig,
    arguments: Sequence[str],
    groups: Collection[str],
    problems: dict[str, str | None],
) -> list[Override]:
    """Reads and checks overrides and applies the good ones, in place.

    Args:
        cfg: the composed files.
        arguments: as typed.
        groups: names of the config groups.
        problems: by argument; those that are found are added.

    Returns:
        The good ones.
    """
    chosen = config.unresolved(cfg)
    present = _with_classes(cfg, arguments)
    good = []
    for argument in arguments:
        try:
            override = read(argument, present)
            problems[argument] = repeats(override, chosen) or problem(override, present, groups)
        except ValueError as error:
            problems[argument] = str(error)
            continue
        if problems[argument] is None:
            good.append(override)
    for override in good:
        with readable_errors():
            apply(cfg, override)
    drop_inherited(cfg, chosen, set(typed_keys(good)))
    return good


def _with_classes(cfg: DictConfig, arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration with the classes and keys that overrides add, plain: other keys depend on
    them.
    """
    changed, plain = cfg.copy(), config.unresolved(cfg)
    for argument in arguments:
        value = argument.partition('=')[2].lstrip()
        if key_of(argument).endswith('_target_') or value.startswith('{') or '${' in value:
            try:
                override = read(argument, plain)
            except ValueError:
                continue  # found again, and told, when all of them are read
            if problem(override, plain, ()) is None:
                apply(changed, override)
    return config.unresolved(changed)


def _contradictions(root: DictConfig, cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Keys that copy the rate or the channels and have a value of their own, with what is wrong."""
    ours, plain = config.unresolved(root), config.unresolved(cfg)
    for key in config.leaf_keys(ours):
        copied, value = config.select(ours, key), config.select(plain, key)
        if (
            copied not in _SHARED
            or value == copied
            or isinstance(value, str | Mapping)
            or value is config.MISSING
        ):
            continue
        name = copied[2:-1]
        if value != plain.get(name):
            yield key, f'{key}={value}: must agree with {name}={plain.get(name)}; set {name} alone'


def _stamp(folder: Path) -> _Stamp:
    """All files of configurations, and when each was changed: what was read of them holds until one
    is.
    """
    folders = [folder, *filter(None, [paths.own_config_folder()])]
    return frozenset(
        (path, path.stat().st_mtime_ns) for folder in folders for path in folder.rglob('*.yaml')
    )


@functools.lru_cache(maxsize=64)
def _files(folder: Path, stamp: _Stamp, choices: tuple[str, ...]) -> DictConfig:
    """The files that choices of options name, composed by Hydra, which takes a second; not to be
    changed.
    """
    with _search(folder), readable_errors():
        return hydra.compose(CONFIG, list(choices))


@functools.lru_cache(maxsize=4)
def _options(folder: Path, stamp: _Stamp) -> dict[str, list[str]]:
    """The options of every config group."""
    with _search(folder) as loader:
        return {group: list(_options_of(loader, group)) for group in _groups(loader, '')}


@contextmanager
def _search(folder: Path) -> Iterator[Any]:
    """Hydra's loader of the configurations in a folder."""
    with hydra.initialize_config_dir(str(folder.resolve()), job_name='train', version_base='1.3'):
        instance = GlobalHydra.instance().hydra
        assert instance is not None
        yield instance.config_loader


def _groups(loader: Any, parent: str) -> Iterator[str]:
    """Every group that can be chosen, also those, like `solver`, whose options all lie in
    sub-folders.
    """
    for name in loader.get_group_options(parent, ObjectType.GROUP):
        if name != 'hydra' or parent:
            group = f'{parent}/{name}'.lstrip('/')
            yield group
            yield from _groups(loader, group)


def _options_of(loader: Any, group: str, prefix: str = '') -> Iterator[str]:
    """All options of a config group, those of its sub-groups included; names that begin with _ are
    parts.
    """
    here = f'{group}/{prefix}'.rstrip('/')
    for name in loader.get_group_options(here, ObjectType.CONFIG):
        if not name.startswith('_'):
            yield prefix + name
    for sub in loader.get_group_options(here, ObjectType.GROUP):
        yield from _options_of(loader, group, f'{prefix}{sub}/')


def _choice_problem(argument: str, options: Mapping[str, Sequence[str]]) -> str | None:
    """What is wrong with an override that chooses an option of a group."""
    if '=' not in argument or argument.startswith(('+', '~')) or '@' in argument.split('=', 1)[0]:
        return None  # Hydra says what is wrong with those
    key, value = argument.split('=', 1)
    known = options[key.strip()]
    if value.strip() in known:
        return None
    return (
        f'{key}={value}: no such option{config.nearest(value, known)} (there are: '
        f'{", ".join(known)})'
    )


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turns what Hydra and OmegaConf say of a user's input into one message.

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
