"""Signature of an experiment: all values of its configuration that differ from the root defaults.

Dora hashes a list of (key, value). Here that list holds every leaf that differs from
`config/config.yaml` without a recipe, wherever it was set: in a recipe, in another file of a group
or on the command line. So every value of a model file of your own is part of the signature, and a
value counts the same wherever it is set.

Leaves are compared before interpolations are resolved: a copy such as `${sample_rate}` counts only
once, where the original is set.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from audiocodec.recipe.rules import ACCEPTED
from audiocodec.utils import config, paths

_REMOVED = '(removed)'
_NAME = re.compile(r'[^\s${}\[\]:,\'"]+')  # of a key or resolver, in the text of an interpolation
# Matches calls such as ${oc.env:HOME}, whose value does not follow from the configuration alone.
_RESOLVER = re.compile(r'\$\{\s*[\w.]+\s*:')


def signature_delta(
    root: DictConfig, cfg: DictConfig, excluded: Callable[[str], bool]
) -> list[tuple[str, Any]]:
    """List the leaves of a configuration that distinguish it from the root defaults.

    Args:
        root: the root defaults, without a recipe; interpolations not resolved.
        cfg: the configuration; interpolations not resolved.
        excluded: returns whether a dotted key is left out of the signature.

    Returns:
        (dotted key, value in canonical form), sorted by key.
    """
    plain = config.unresolved(cfg)
    defaults = dict(config.leaf_items(config.unresolved(root)))
    values = dict(config.leaf_items(plain))
    counted = {key for key in (*defaults, *values) if not excluded(key)}
    present = set(config.leaf_keys(plain))
    gone = counted & (defaults.keys() - present)
    removed = (_first_missing(key, present) for key in gone)
    delta = dict.fromkeys(removed, _REMOVED)
    resolved = _Resolved(cfg)
    for key in counted & values.keys():
        value, default = values[key], defaults.get(key, _REMOVED)
        if _RESOLVER.search(str(value)):
            value = resolved[key]
        if _json(_canonical(key, value)) != _json(_canonical(key, default)):
            delta[key] = _canonical(key, value)
    neutral = {
        key: defaults[key]
        for key in (values.keys() & defaults.keys()) - counted
        if _json(values[key]) != _json(defaults[key])
    }
    texts = {key: str(value) for key, value in values.items() if '${' in str(value)}
    suspects = _reached(neutral, texts) & counted
    delta.update(_dependent(cfg, suspects, neutral) if suspects else {})
    return sorted(delta.items())


def _first_missing(key: str, present: set[str]) -> str:
    """Return the outermost missing section that holds a missing key, or the key itself."""
    parts = key.split('.')
    above = ('.'.join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return next(section for section in above if section not in present)


def _reached(changed: Collection[str], texts: Mapping[str, str]) -> set[str]:
    """Return the interpolations that may depend on changed keys, directly or through others.

    Args:
        changed: dotted keys.
        texts: the interpolations, by key. One may depend on the keys that it names, on those below
            and above; a relative one, such as `${.lr}`, on any.
    """
    names = {key: {name.rstrip('.') for name in _NAME.findall(text)} for key, text in texts.items()}
    above = {key: {part for name in names[key] for part in _sections(name)} for key in names}
    relative = {key for key, text in texts.items() if re.search(r'\{\s*\.', text)}
    reached: set[str] = set()
    new = set(changed)
    while new:
        named = new.union(*map(_sections, new))
        new = relative | {
            key
            for key in names
            if not (named.isdisjoint(names[key]) and new.isdisjoint(above[key]))
        }
        new -= reached
        reached |= new
    return reached


def _sections(key: str) -> Iterator[str]:
    """Yield the sections that hold a dotted key."""
    while '.' in key:
        key = key.rpartition('.')[0]
        yield key


def _dependent(
    cfg: DictConfig, interpolated: Collection[str], neutral: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the counted leaves that depend on excluded keys with other values than the root's.

    `optim.epochs` is excluded, but the length of a cosine schedule depends on it: such a value
    counts where it is used. These leaves are found by resolving the configuration a second time
    with the root's values of the excluded keys.

    Args:
        cfg: the configuration.
        interpolated: its counted leaves that hold interpolations.
        neutral: the excluded leaves that differ from the root's, with the root's values.
    """
    changed = cfg.copy()
    for key, value in neutral.items():
        OmegaConf.update(changed, key, value, merge=False, force_add=True)
    ours, theirs = _Resolved(cfg), _Resolved(changed)
    pairs = ((key, ours[key], theirs[key]) for key in interpolated)
    return {key: _canonical(key, own) for key, own, other in pairs if _json(own) != _json(other)}


class _Resolved:
    """Values of a configuration with interpolations resolved; None for those that cannot be."""

    def __init__(self, cfg: DictConfig) -> None:
        self._cfg = cfg

    def __getitem__(self, key: str) -> Any:
        try:
            value = OmegaConf.select(self._cfg, key)
        except Exception:  # a resolver may raise anything; the checks name the key later
            return None
        return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def _canonical(key: str, value: Any) -> Any:
    """Return a value in canonical form: 1.0 as 1, and paths as `utils.paths.canonical` does."""
    kind = ACCEPTED[key].kind if key in ACCEPTED else ''
    if isinstance(value, list):
        return [_canonical(key if kind == 'sources' else '', item) for item in value]
    if isinstance(value, Mapping):
        return {
            str(name): _canonical(key if kind == 'sources' and name == 'path' else '', item)
            for name, item in value.items()
        }
    if isinstance(value, float) and value.is_integer():
        return int(value)
    is_path = kind in ('path', 'sources') or (kind == 'source' and paths.find(str(value)).exists())
    if isinstance(value, str) and value and '${' not in value and is_path:
        return paths.canonical(value)
    return value


def _json(value: Any) -> str:
    """Return a value as JSON: unlike in Python, true then differs from 1."""
    return json.dumps(value, sort_keys=True, default=str)
