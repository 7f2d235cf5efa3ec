import pytest
import torch
from torch import nn

from audiocodec.modules import CONV_NORMS, NormConv1d, NormConv2d, NormConvTranspose1d


@pytest.mark.parametrize('cls', [NormConv1d, NormConv2d, NormConvTranspose1d])
def test_weight_norm_keeps_the_weight_and_splits_it_by_first_dimension(cls):
    torch.manual_seed(0)
    plain = cls(3, 4, 5)
    torch.manual_seed(0)
    normed = cls(3, 4, 5, norm='weight_norm')
    x = torch.randn(2, 3, 8) if cls is not NormConv2d else torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(normed(x), plain(x))
    state = {name.rpartition('.')[2]: value for name, value in normed.state_dict().items()}
    magnitude, direction = state['original0'], state['original1']
    torch.testing.assert_close(magnitude.flatten(), direction.flatten(1).norm(dim=1))
    assert magnitude.shape[0] == direction.shape[0]


def test_weight_norm_ignores_the_length_of_the_direction():
    conv = NormConv1d(2, 3, 3, norm='weight_norm')
    x = torch.randn(1, 2, 8)
    before = conv(x)
    with torch.no_grad():
        conv.conv.parametrizations.weight.original1.mul_(7)
    torch.testing.assert_close(conv(x), before)


@pytest.mark.parametrize(
    ('cls', 'dim'), [(NormConv1d, 0), (NormConv2d, 0), (NormConvTranspose1d, 1)]
)
def test_spectral_norm_sets_the_largest_singular_value_to_one(cls, dim):
    torch.manual_seed(0)
    conv = cls(3, 4, 5, norm='spectral_norm')
    inner = conv.convtr if cls is NormConvTranspose1d else conv.conv
    for _ in range(100):  # one power iteration each
        weight = inner.weight
    assert torch.linalg.matrix_norm(
        weight.transpose(0, dim).flatten(1), ord=2
    ).item() == pytest.approx(1, abs=1e-4)


def test_time_group_norm_normalizes_channels_and_time_together_per_item():
    conv = NormConv1d(2, 6, 3, norm='time_group_norm')
    y = conv(100 * torch.randn(3, 2, 50) + 5)
    torch.testing.assert_close(y.mean(dim=(1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(dim=(1, 2), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    assert y.mean(dim=2).abs().max() > 0.01  # not per channel


def test_time_group_norm_takes_arguments():
    assert (
        NormConv1d(
            1, 4, 3, norm='time_group_norm', norm_kwargs={'eps': 0.5, 'affine': False}
        ).norm.eps
        == 0.5
    )
    assert isinstance(NormConv1d(1, 4, 3, norm='weight_norm', norm_kwargs={}).norm, nn.Identity)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'norm': 'time_group_norm', 'causal': True}, 'a causal model must not see'),
        (
            {'norm': 'time_group_norm', 'norm_kwargs': {'epsilon': 1}},
            "{'epsilon': 1} do not fit time_group_norm",
        ),
        (
            {'norm': 'weight_norm', 'norm_kwargs': {'dim': 1}},
            "norm='weight_norm' takes no arguments, got {'dim': 1}",
        ),
        (
            {'norm': 'layer_norm'},
            f"norm='layer_norm' is unknown: choose one of {', '.join(CONV_NORMS)}",
        ),
    ],
)
def test_bad_norms_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        NormConv1d(1, 4, 3, **kwargs)
