import re

import pytest

from audiocodec.modules.checks import require_int, require_ints


@pytest.mark.parametrize(('value', 'minimum'), [(1, 1), (7, 1), (0, 0), (-2, -2)])
def test_integers_from_the_minimum_on_are_accepted(value, minimum):
    require_int('stride', value, minimum)
    with pytest.raises(ValueError, match=f'expected an integer >= {minimum}$'):
        require_int('stride', minimum - 1, minimum)


@pytest.mark.parametrize('value', [0, -1, 2.0, '2', True, None, [2]])
def test_other_values_are_refused_with_the_name(value):
    message = re.escape(f'stride={value!r}: expected an integer >= 1')
    with pytest.raises(ValueError, match=f'^{message}$'):
        require_int('stride', value)


def test_minimum_is_named():
    with pytest.raises(ValueError, match=r'^lstm=-1: expected an integer >= 0$'):
        require_int('lstm', -1, minimum=0)


@pytest.mark.parametrize(
    ('values', 'expected'),
    [([8, 5, 4, 2], (8, 5, 4, 2)), ((3,), (3,)), (range(1, 4), (1, 2, 3))],
)
def test_sequences_of_integers_become_tuples(values, expected):
    assert require_ints('ratios', values) == expected


@pytest.mark.parametrize('values', [[], (), 320, None, '12', b'12', [8, 0], [2.0], [True]])
def test_other_sequences_are_refused_with_the_name(values):
    message = re.escape(f'ratios={values!r}: expected a non-empty list of integers >= 1')
    with pytest.raises(ValueError, match=f'^{message}$'):
        require_ints('ratios', values)


def test_items_may_reach_the_minimum():
    assert require_ints('paddings', [0, 3], minimum=0) == (0, 3)
