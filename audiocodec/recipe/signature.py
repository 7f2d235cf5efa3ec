"""The signature of an experiment: what its configuration sets differently from the root defaults.

Dora hashes a list of (key, value). Here that list holds every leaf that differs from
`config/config.yaml` without a recipe, wherever it was set: in a recipe, in another file of a group
or on the command line. So a model file of your own is part of the signature with all that stands in
it, and a value counts the same wherever it was written.

Leaves are compared before interpolations are resolved: a copy such as `${sample_rate}` counts where
it is set, once.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from audiocodec.recipe.rules import ACCEPTED
from audiocodec.utils import config, paths

_REMOVED = '(removed)'
_RESOLVER = re.compile(
    r'\$\{\s*[\w.]+\s*:'
)  # ${oc.env:HOME}: its value does not follow from the configuration alone


def signature_delta(
    root: DictConfig, cfg: DictConfig, excluded: Callable[[str], bool]
) -> list[tuple[str, Any]]:
    """Lists the leaves of a configuration that distinguish it from the root defaults.

    Args:
        root: the root defaults, without a recipe; interpolations not resolved.
        cfg: the configuration; interpolations not resolved.
        excluded: whether a dotted key is left out of the signature.

    Returns:
        (dotted key, value in its one form), sorted by key.
    """
    defaults, values = _leaves(root), _leaves(cfg)
    counted = {key for key in (*defaults, *values) if not excluded(key)}
    present = set(config.leaf_keys(config.unresolved(cfg)))
    removed = (_first_missing(key, present) for key in counted & defaults.keys() - present)
    delta = dict.fromkeys(removed, _REMOVED)
    resolved = _Resolved(cfg)
    for key in counted & values.keys():
        value, default = values[key], defaults.get(key, _REMOVED)
        if _RESOLVER.search(str(value)):
            value = resolved[key]
        if _text(_form(key, value)) != _text(_form(key, default)):
            delta[key] = _form(key, value)
    delta.update(_dependent(root, cfg, counted, excluded))
    return sorted(delta.items())


def _first_missing(key: str, present: set[str]) -> str:
    """The section furthest up that a missing key is missing with, or the key itself."""
    parts = key.split('.')
    above = ('.'.join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return next(section for section in above if section not in present)


def _dependent(
    root: DictConfig, cfg: DictConfig, counted: set[str], excluded: Callable[[str], bool]
) -> dict[str, Any]:
    """Leaves that count and refer to excluded keys, where those keys differ from the root defaults.

    `optim.epochs` is excluded, but the length of a cosine schedule follows from it: such a value
    counts where it is used. Found by resolving the configuration a second time, with the excluded
    keys as the root has them.
    """
    defaults, values = _leaves(root), _leaves(cfg)
    neutral = cfg.copy()
    for key in values:
        if excluded(key) and key in defaults:
            OmegaConf.update(neutral, key, defaults[key], merge=False, force_add=True)
    ours, theirs = _Resolved(cfg), _Resolved(neutral)
    interpolated = [key for key in counted & values.keys() if '${' in str(values[key])]
    return {
        key: _form(key, ours[key]) for key in interpolated if _text(ours[key]) != _text(theirs[key])
    }


class _Resolved:
    """Values of a configuration with their interpolations resolved; those that cannot be resolved
    are their text.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self._cfg = cfg

    def __getitem__(self, key: str) -> Any:
        try:
            value = OmegaConf.select(self._cfg, key)
        except Exception:  # a resolver may raise anything; validation names the key
            return None
        return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def _leaves(cfg: DictConfig) -> dict[str, Any]:
    """The leaves of a configuration by dotted key; lists and empty mappings are leaves."""
    return dict(config.leaf_items(config.unresolved(cfg)))


def _form(key: str, value: Any) -> Any:
    """The one form of a value: 1.0 as 1, and paths however they were spelled (see
    `utils.paths.canonical`).
    """
    if isinstance(value, list):
        return [_form('', item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _form('', item) for name, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    kind = ACCEPTED[key].kind if key in ACCEPTED else ''
    is_path = kind == 'path' or (kind == 'source' and paths.find(str(value)).exists())
    if isinstance(value, str) and value and '${' not in value and is_path:
        return paths.canonical(value)
    return value


def _text(value: Any) -> str:
    """A value as JSON, in which true is not 1."""
    return json.dumps(value, sort_keys=True, default=str)
