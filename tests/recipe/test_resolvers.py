"""Functions for interpolations: lengths in updates, and None where they are not known."""

import pytest
from omegaconf import OmegaConf

from audiocodec.recipe.resolvers import run_length, share


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ((3, 20, None, 8), 60),
        ((3, None, 81, 8), 30),  # an incomplete batch is dropped
        ((3, 20, 8, 8), 60),
        ((3, None, None, 8), None),
        ((3, None, 80, 0), None),
        ((3, None, 80, 'x'), None),
        (('x', 20, None, 8), None),
        ((True, 20, None, 8), None),
    ],
)
def test_run_length(arguments, expected):
    assert run_length(*arguments) == expected


@pytest.mark.parametrize(
    ('whole', 'fraction', 'expected'),
    [(400, 0.25, 100), (10, 0.26, 3), (10, 0.001, 1), (None, 0.25, None), (400, 'x', None)],
)
def test_share(whole, fraction, expected):
    assert share(whole, fraction) == expected


def test_both_are_registered():
    cfg = OmegaConf.create({'n': '${run_length:2,10,null,4}', 'warmup': '${share:${n},0.1}'})
    assert (cfg.n, cfg.warmup) == (20, 2)
