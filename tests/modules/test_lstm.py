import pytest
import torch

from audiocodec.modules import StreamableLSTM


@pytest.mark.parametrize('skip', [True, False])
def test_lstm_runs_over_the_last_dimension(skip):
    layer = StreamableLSTM(6, num_layers=2, skip=skip)
    x = torch.randn(3, 6, 11)
    expected = torch.stack([layer.lstm(item.T)[0].T for item in x])  # unbatched: [T, C]
    torch.testing.assert_close(layer(x), expected + x if skip else expected)


def test_lstm_is_causal():
    layer = StreamableLSTM(4)
    x = torch.randn(1, 4, 10)
    changed = x.clone()
    changed[..., 6:] += 1
    difference = (layer(x) - layer(changed)).abs().amax(dim=(0, 1))
    assert torch.equal(difference[:6], torch.zeros(6))
    assert difference[6:].min() > 0


def test_zero_layers_are_refused():
    with pytest.raises(ValueError, match='num_layers=0: expected an integer >= 1'):
        StreamableLSTM(4, num_layers=0)


def test_inference_rounds_like_training():
    layer, x = StreamableLSTM(32), torch.randn(2, 32, 50)
    trained = layer(x.requires_grad_()).detach()
    with torch.no_grad():
        assert torch.equal(layer(x), trained)
