import pytest
from torch import nn

from audiocodec.modules import make_activation


def test_activation_by_name():
    assert make_activation('LeakyReLU', {'negative_slope': 0.3}).negative_slope == 0.3
    assert isinstance(make_activation('ELU'), nn.ELU)


@pytest.mark.parametrize(('name', 'params', 'message'), [
    ('Elu', None, "activation='Elu' is not a module of torch.nn: use for instance ELU"),
    ('functional', None, "activation='functional' is not a module"),
    (None, None, 'activation=None is not a module'),
    ('ReLU', {'alpha': 1.}, "parameters {'alpha': 1.0} do not fit the activation ReLU"),
])
def test_activation_refuses(name, params, message):
    with pytest.raises(ValueError, match=message):
        make_activation(name, params)
