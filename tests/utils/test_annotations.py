from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import nn

from audiocodec.utils.annotations import misfit

NODE = {'_target_': 'torch.nn.L1Loss'}


@pytest.mark.parametrize(
    ('value', 'annotation'),
    [
        (1, int),
        (1, float),
        (0.5, float),
        (True, bool),
        ('a', str),
        (None, int | None),
        (2, int | None),
        ([1, 2], Sequence[int]),
        ([1, 2], list[int]),
        ([], Sequence[int]),
        ([0.5, 0.9], tuple[float, float]),
        ([1, 2, 3], tuple[int, ...]),
        ([1, 'a'], Sequence),
        ({'a': 1}, Mapping[str, Any] | None),
        ({}, dict),
        ({'a': NODE}, Mapping[str, nn.Module]),
        ('same', Literal['same', 'valid']),
        ('hinge', str | nn.Module),
        (3, float | torch.Tensor),
        ('anything', Any),
        (object(), int | object),
        (1, 'int'),
        ('x', 'Optimizer'),
        (NODE, nn.Module),
        (NODE, Callable[[int], int]),
        (nn.ReLU(), nn.Module),
        ([nn.ReLU()], Iterable[nn.Module]),
    ],
)
def test_what_fits(value, annotation):
    assert misfit(value, annotation) is None


@pytest.mark.parametrize(
    ('value', 'annotation', 'accepted'),
    [
        (True, int, 'an integer'),
        (1.0, int, 'an integer'),
        ('1', int, 'an integer'),
        (2**64, int, 'an integer'),
        (None, int, 'an integer'),
        ('1e-3', float, 'a finite number'),
        (float('nan'), float, 'a finite number'),
        (float('inf'), float, 'a finite number'),
        (False, float, 'a finite number'),
        (1, bool, 'true or false'),
        (1, str, 'a string'),
        ('x', int | None, 'an integer or null'),
        ('x', float | torch.Tensor, 'a finite number'),
        ('12', Sequence[int], 'a list of integers'),
        (3, Sequence, 'a list'),
        ([1, 'a'], Sequence[int], 'a list of integers'),
        ([1], tuple[float, float], 'a list of 2 items'),
        ([1, 'a'], tuple[float, float], 'a list of 2 items'),
        ([3], Mapping[str, Any], 'a section (keys and values)'),
        ({'a': 3}, Mapping[str, int | str] | dict[str, float], None),
        (
            {'a': 3},
            Mapping[str, nn.Module],
            'a section of components (sections with a _target_)',
        ),
        ('full', Literal['same', 'valid'], 'same, valid'),
        (3, nn.Module, 'a component (a section with a _target_)'),
        ({'a': 1}, nn.Module | None, 'a component (a section with a _target_) or null'),
        ('x', 'float', 'a finite number'),
        (3, Callable[[int], int], 'a component (a section with a _target_)'),
    ],
)
def test_what_does_not_fit_is_told_what_is_accepted(value, annotation, accepted):
    assert misfit(value, annotation) == accepted
