import pytest
import torch

from audiocodec.dsp.mix import mix


def test_signals_are_added_at_their_levels():
    first, second = 0.1 * torch.ones(2, 5), 0.01 * torch.ones(2, 3)
    mixed = mix([first, second], [-20.0, 20.0])
    expected = torch.tensor([0.11, 0.11, 0.11, 0.01, 0.01]).expand(2, 5)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(mix([second, first], [20.0, -20.0]), expected)
    torch.testing.assert_close(mix([first], [6.0206]), 2 * first, rtol=1e-4, atol=0)


def test_what_would_clip_is_scaled_down():
    wav = torch.tensor([[0.5, -1.0]])
    torch.testing.assert_close(mix([wav], [12.0]), wav)
    torch.testing.assert_close(mix([wav, wav], [0.0, 0.0]), wav)
    loud = torch.tensor([[1.5, 0.3]])  # decoded music may be beyond full scale
    torch.testing.assert_close(mix([loud], [0.0]), loud)
    assert mix([loud, loud], [0.0, 0.0]).abs().max().item() == pytest.approx(1.5)


def test_empty_signals_stay_empty():
    assert mix([torch.zeros(1, 0)], [3.0]).shape == (1, 0)
