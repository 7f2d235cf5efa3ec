import pytest
from torch import nn

from audiocodec.utils.eval_mode import eval_mode


def modes(*modules):
    return [part.training for module in modules for part in module.modules()]


def test_the_mode_of_every_part_is_restored():
    one, other = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout())), nn.Dropout()
    one[0].eval()
    before = modes(one, other)
    assert before == [True, False, True, True, True]

    def fail():
        with eval_mode(one, other):
            assert modes(one, other) == 5 * [False]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert modes(one, other) == before
