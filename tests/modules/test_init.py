import pytest
import torch

from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.modules.init import initialize


def std_of_output(module, x):
    with torch.no_grad():
        return module(x).std(-1).mean()


@pytest.mark.parametrize('norm', ['none', 'weight_norm'])
@pytest.mark.parametrize(
    ('network', 'size'), [(SEANetEncoder, (4, 1, 3200)), (SEANetDecoder, (4, 32, 200))]
)
def test_only_lecun_normal_preserves_the_power(norm, network, size):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    stds = {}
    for init in ('default', 'lecun_normal'):
        torch.manual_seed(0)
        stds[init] = std_of_output(
            network(dimension=32, n_filters=8, n_residual_layers=1, norm=norm, init=init), x
        )
    assert 0.2 < stds['lecun_normal'] < 5
    assert stds['default'] < 0.2 * stds['lecun_normal']


@pytest.mark.parametrize(
    'conv', [torch.nn.Conv1d(16, 400, 7), torch.nn.ConvTranspose1d(16, 400, 8, stride=4)]
)
def test_convolved_white_noise_has_unit_variance(conv):
    torch.manual_seed(0)
    initialize(conv, 'lecun_normal')
    with torch.no_grad():
        assert conv(torch.randn(4, 16, 500))[..., 8:-8].var() == pytest.approx(1, rel=0.1)
    assert not conv.bias.any()


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match='lecun_normal'):
        SEANetEncoder(init='xavier')
