import pytest
import torch
from torch.nn import functional as F

from audiocodec.models.cpu import products
from audiocodec.models.cpu.kernels import make_kernel
from audiocodec.models.cpu.products import LinearProduct, Product, Recurrence


@pytest.mark.parametrize('many', [1, 10**9])  # weights in oneDNN's order, or not
@pytest.mark.parametrize(('taps', 'stride', 'dilation'), [(1, 1, 1), (3, 1, 2), (4, 2, 1)])
@pytest.mark.parametrize('outputs', [1, 24])  # a single item with few outputs: block by block
@pytest.mark.parametrize('items', [1, 2])
def test_products_are_convolutions(monkeypatch, many, taps, stride, dilation, outputs, items):
    monkeypatch.setattr(products, '_MANY', many)
    monkeypatch.setattr(products, '_LONG', 1)
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, 5, taps), torch.randn(outputs)
    product = Product(make_kernel(weight, bias, stride, dilation))
    x = torch.randn(items, 21, 5)
    expected = F.conv1d(x.transpose(1, 2), weight, bias, stride, dilation=dilation)
    torch.testing.assert_close(product.of_rows(x).transpose(1, 2), expected, rtol=0, atol=1e-5)
    rows = x.transpose(1, 2)[:, :, None]
    torch.testing.assert_close(product(rows), expected, rtol=0, atol=1e-5)


def test_linear_layers_of_a_few_frames(monkeypatch):
    monkeypatch.setattr(products, '_MANY', 1)
    linear, x = torch.nn.Linear(7, 5), torch.randn(2, 3, 7)
    torch.testing.assert_close(LinearProduct(linear)(x), linear(x))
    linear = torch.nn.Linear(7, 5, bias=False)
    torch.testing.assert_close(LinearProduct(linear)(x), linear(x))


@pytest.mark.parametrize('packs', [True, False])
@pytest.mark.parametrize('items', [1, 3])
@torch.no_grad()
def test_a_recurrence_goes_on_where_it_stopped(monkeypatch, packs, items):
    monkeypatch.setattr(products, '_has_onednn', lambda weight: packs)
    torch.manual_seed(0)
    lstm, x = torch.nn.LSTM(24, 24, 2), torch.randn(30, items, 24)
    expected, (last_hidden, last_cell) = lstm(x)
    recurrence = Recurrence(lstm)
    hidden = cell = torch.zeros(items, 2, 24).transpose(0, 1)
    found = []
    for part in x.split([1, 6, 2, 21]):
        y, hidden, cell = recurrence(part, hidden, cell)
        found.append(y)
    torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(hidden, last_hidden, rtol=0, atol=1e-6)
    torch.testing.assert_close(cell, last_cell, rtol=0, atol=1e-6)
