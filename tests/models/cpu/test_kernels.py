import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.models.cpu import kernels
from audiocodec.models.cpu.kernels import (
    FewOutputs,
    GroupedTranspose,
    Kernel,
    Pairs,
    ScaledELU,
    make_kernel,
)


@pytest.mark.parametrize('frames', [1, 2, 3, 8, 9])
@pytest.mark.parametrize('stride', [1, 3])
@pytest.mark.parametrize('has_bias', [True, False])
def test_pairs(frames, stride, has_bias):
    torch.manual_seed(0)
    weight, bias = (
        torch.randn(5, 4, 2 * stride, dtype=torch.float64),
        torch.randn(5, dtype=torch.float64),
    )
    x = torch.randn(2, (frames + 1) * stride, 4, dtype=torch.float64).transpose(1, 2)
    bias = bias if has_bias else None
    y = Pairs(weight, bias, stride, 1, 1)(x[:, :, None])
    assert y.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(y, nn.functional.conv1d(x, weight, bias, stride), rtol=0, atol=1e-12)


@pytest.mark.parametrize('outputs', [1, 2])
@pytest.mark.parametrize(('taps', 'dilation'), [(1, 1), (7, 1), (3, 4)])
@pytest.mark.parametrize('has_bias', [True, False])
def test_few_outputs(outputs, taps, dilation, has_bias):
    torch.manual_seed(0)
    weight, bias = (
        torch.randn(outputs, 4, taps, dtype=torch.float64),
        torch.randn(outputs, dtype=torch.float64),
    )
    x = torch.randn(3, 20, 4, dtype=torch.float64).transpose(1, 2)
    bias = bias if has_bias else None
    y = FewOutputs(weight, bias, 1, dilation, 1)(x[:, :, None])
    torch.testing.assert_close(
        y, nn.functional.conv1d(x, weight, bias, dilation=dilation), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ('shape', 'options', 'kind', 'is_product'),
    [
        ((5, 4, 1), {}, Kernel, True),
        ((5, 4, 3), {}, Kernel, False),
        ((5, 4, 1), {'stride': 2}, Kernel, False),
        ((6, 2, 1), {'groups': 2}, Kernel, False),
        ((2, 4, 1), {}, FewOutputs, False),
        ((2, 4, 7), {'dilation': 2}, FewOutputs, False),
        ((2, 4, 3), {'stride': 2}, Kernel, False),
        ((2, 2, 3), {'groups': 2}, Kernel, False),
        ((5, 4, 2), {}, Pairs, False),
        ((5, 4, 6), {'stride': 3}, Pairs, False),
        ((5, 4, 2), {'dilation': 2}, Kernel, False),
        ((6, 2, 2), {'groups': 2}, Kernel, False),
        ((3, 4, 2), {}, Kernel, False),  # of few weights
    ],
)
def test_which_kernel_it_is(monkeypatch, shape, options, kind, is_product):
    monkeypatch.setattr(kernels, '_PRODUCTS', True)
    monkeypatch.setattr(kernels, '_PAIRED', 40)
    torch.manual_seed(0)
    weight, bias = (
        torch.randn(shape, dtype=torch.float64),
        torch.randn(shape[0], dtype=torch.float64),
    )
    x = torch.randn(3, 24, shape[1] * options.get('groups', 1), dtype=torch.float64).transpose(1, 2)
    kernel = make_kernel(weight, bias, **options)
    assert type(kernel) is kind
    assert kernel.is_product == is_product
    expected = nn.functional.conv1d(x, weight, bias, **options)
    torch.testing.assert_close(kernel(x[:, :, None]), expected, rtol=0, atol=1e-12)
    if is_product:
        onto = torch.randn(3, 24, 5, dtype=torch.float64).transpose(1, 2)
        expected += onto - bias[:, None]
        kernel.add_product(x, onto)
        torch.testing.assert_close(onto, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('alpha', [-1.0, 0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize('cached', [1, 20, 2**17])  # one frame at once, some, all
@pytest.mark.parametrize('scale', [1.0, 3.0, kernels.LOG2_E])
def test_elu_is_within_a_rounding_error_of_the_exact_one(monkeypatch, alpha, cached, scale):
    monkeypatch.setattr(kernels, '_CACHED', cached)
    torch.manual_seed(0)
    edges = torch.tensor([0, -torch.inf, torch.inf, 1e-30])
    x = torch.cat([torch.randn(996) * 10 ** torch.linspace(-9, 2, 996), edges]).view(2, 125, 4)
    x[0, 7, 1] = torch.nan
    expected = scale * nn.functional.elu(x.double() / scale, alpha)
    elu, out, in_place = ScaledELU(alpha, scale), torch.full((2, 130, 4), 5.0), x.clone()
    assert elu(x, out[:, 3:128]).data_ptr() == out[:, 3:].data_ptr()
    elu(in_place, in_place)
    for found in (out[:, 3:128], in_place, elu(x)):
        torch.testing.assert_close(
            found.double(), expected, rtol=1e-6, atol=1.2e-7 * scale, equal_nan=True
        )
    assert (torch.cat([out[:, :3], out[:, 128:]], dim=1) == 5).all()


def test_the_matrix_of_pairs():
    weight = torch.randn(6, 5, 4)
    plain, pairs = Kernel(weight, None, 2), Pairs(weight, None, 2)
    assert torch.equal(pairs.matrix(), plain.matrix())
    assert torch.equal(plain.matrix(), weight.transpose(1, 2).flatten(1))


def test_grouped_transposed_convolution():
    torch.manual_seed(0)
    weight, bias, x = torch.randn(6, 2, 4), torch.randn(4), torch.randn(3, 6, 10)
    expected = F.conv_transpose1d(x, weight, bias, 2, groups=2)
    found = GroupedTranspose(weight, bias, 2, 2)(F.pad(x, (1, 0))[:, :, None])
    found = found.transpose(1, 2).reshape(3, 20, 4).transpose(1, 2)
    torch.testing.assert_close(found, expected[..., :20])
