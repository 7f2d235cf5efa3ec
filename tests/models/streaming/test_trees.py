import pytest
import torch

from audiocodec.models.streaming.trees import checked, mapped, merged

TREE = {'rows': torch.ones(2), 'known': 3, 'inner': [{'keys': None}, {'keys': torch.zeros(1)}]}


def test_mapped_copies_all_but_the_leaves():
    found = mapped(lambda value: value + 1, TREE)
    assert found['rows'].tolist() == [2, 2]
    assert found['known'] == 3
    assert found['inner'][0] == {'keys': None}
    assert found['inner'][1]['keys'].tolist() == [1]
    found['inner'][0]['keys'] = 5
    assert TREE['inner'][0]['keys'] is None


@pytest.mark.parametrize(
    'other',
    [
        {'rows': None, 'known': 0},
        {'rows': None, 'known': 0, 'inner': [{'keys': None}]},
        {'rows': None, 'known': None, 'inner': [{'keys': None}, {'keys': None}]},
        {'rows': 3, 'known': 0, 'inner': [{'keys': None}, {'keys': None}]},
        {'rows': None, 'known': 0, 'inner': {'keys': None}},
    ],
)
def test_checked_compares_the_structure(other):
    like = {'rows': None, 'known': 0, 'inner': [{'keys': None}, {'keys': None}]}
    assert checked(TREE, like) is TREE
    with pytest.raises(ValueError, match='not of this model'):
        checked(other, like)


def test_merged_concatenates_items():
    other = {'rows': torch.zeros(1), 'known': 3, 'inner': [{'keys': None}, {'keys': torch.ones(2)}]}
    found = merged(TREE, other)
    assert found['rows'].tolist() == [1, 1, 0]
    assert found['known'] == 3
    assert found['inner'][0] == {'keys': None}
    assert found['inner'][1]['keys'].tolist() == [0, 1, 1]
    assert merged(TREE, {**other, 'known': 4}) is None
    assert merged(TREE, {**other, 'rows': None}) is None
    assert merged(TREE, {**other, 'inner': other['inner'][:1]}) is None
    assert merged({'rows': torch.ones(1, 2)}, {'rows': torch.ones(1, 3)}) is None
