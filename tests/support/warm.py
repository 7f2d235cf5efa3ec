"""Imported by the process that `forked` forks from: composes a recipe, whose files are cached."""

from audiocodec.recipe import compose
from audiocodec.utils import paths

compose.compose(paths.ROOT / 'config', ['solver=compression/debug'])
