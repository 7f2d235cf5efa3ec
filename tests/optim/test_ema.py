import io

import pytest
import torch
from torch import nn

from audiocodec.optim import ModuleEMA


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        self.register_buffer('codebook', torch.randn(4))
        self.register_buffer('updates', torch.tensor(0))
        self.register_buffer('ready', torch.tensor(False))
        self.register_buffer('window', torch.ones(3), persistent=False)


def snapshot(module):
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: value.detach().clone() for name, value in tensors}


def move(module, step):
    with torch.no_grad():
        for value in [*module.parameters(), module.codebook]:
            value += torch.randn(value.shape, generator=torch.Generator().manual_seed(step))
        module.updates += 1
        module.ready.fill_(True)
        module.window += 1


def run(module, ema, steps):
    history = []
    for step in steps:
        move(module, step)
        ema.step()
        history.append(module.codebook.clone())
    return history


def test_covers_parameters_and_persistent_floating_buffers():
    module = Module()
    floats = {name for name, value in module.state_dict().items() if value.is_floating_point()}
    assert set(ModuleEMA(module).averages) == floats
    assert 'window' not in floats
    assert len(floats) == 4


def test_unbiased_average_is_the_weighted_mean_of_the_updates():
    module = Module()
    ema = ModuleEMA(module, decay=0.5)
    history = run(module, ema, range(3))
    torch.testing.assert_close(
        ema.averages['codebook'], (history[0] + 2 * history[1] + 4 * history[2]) / 7
    )


def test_first_update_replaces_the_initial_weights_exactly():
    module = Module()
    ema = ModuleEMA(module)
    history = run(module, ema, range(1))
    assert torch.equal(ema.averages['codebook'], history[0])


def test_biased_average_includes_the_initial_weights():
    module = Module()
    initial = module.codebook.clone()
    ema = ModuleEMA(module, decay=0.9, unbias=False)
    history = run(module, ema, range(2))
    torch.testing.assert_close(
        ema.averages['codebook'], 0.81 * initial + 0.09 * history[0] + 0.1 * history[1]
    )


def test_every_third_update():
    module = Module()
    ema = ModuleEMA(module, decay=0.5, every=3)
    history = run(module, ema, range(7))
    torch.testing.assert_close(ema.averages['codebook'], (history[2] + 2 * history[5]) / 3)


def test_a_constant_stays_exact():
    module = Module()
    ema = ModuleEMA(module)
    for _ in range(50):
        ema.step()
    assert torch.equal(ema.averages['codebook'], module.codebook)


def test_averaged_swaps_in_the_averages_in_place_and_keeps_integers():
    module = Module()
    ema = ModuleEMA(module, decay=0.5)
    run(module, ema, range(3))
    pointers = [value.data_ptr() for value in module.state_dict().values()]
    own = snapshot(module)
    with ema.averaged() as swapped:
        assert swapped is module
        for name, value in ema.averages.items():
            assert torch.equal(module.state_dict()[name], value)
            assert not torch.equal(own[name], value)
        assert module.updates == 3
        assert module.ready
        assert torch.equal(module.window, own['window'])
        assert [value.data_ptr() for value in module.state_dict().values()] == pointers
        expected = nn.functional.linear(torch.ones(3), module.linear.weight, module.linear.bias)
        assert torch.equal(module.linear(torch.ones(3)), expected)


@pytest.mark.parametrize('fails', [False, True])
def test_own_weights_are_restored_bit_for_bit(fails):
    module = Module()
    ema = ModuleEMA(module)
    run(module, ema, range(5))
    with torch.no_grad():
        module.codebook[0] = torch.nan
    own = snapshot(module)
    averages = {name: value.clone() for name, value in ema.averages.items()}
    try:
        with ema.averaged():
            module.codebook.fill_(7.0)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    for name, value in snapshot(module).items():
        assert value.numpy().tobytes() == own[name].numpy().tobytes()
    for name, value in ema.averages.items():
        assert torch.equal(value, averages[name])


def test_step_and_nesting_within_averaged_are_refused():
    ema = ModuleEMA(Module())
    with ema.averaged():
        with pytest.raises(AssertionError, match='step'):
            ema.step()
        with pytest.raises(AssertionError, match='already in use'), ema.averaged():
            pass
    ema.step()
    assert ema.calls == 1


@pytest.mark.parametrize('done', [0, 4])
def test_resuming_is_exact(done):
    torch.manual_seed(0)
    module = Module()
    ema = ModuleEMA(module, decay=0.9, every=2)
    run(module, ema, range(done))
    file = io.BytesIO()
    torch.save([module.state_dict(), ema.state_dict()], file)
    file.seek(0)
    module_state, state = torch.load(file, weights_only=True)
    other = Module()
    other.load_state_dict(module_state)
    resumed = ModuleEMA(other, decay=0.9, every=2)
    resumed.load_state_dict(state)
    run(module, ema, range(done, 9))
    run(other, resumed, range(done, 9))
    assert resumed.calls == 9
    for name, value in ema.averages.items():
        assert torch.equal(resumed.averages[name], value)


def test_a_replaced_buffer_is_averaged():
    module = Module()
    ema = ModuleEMA(module, decay=0.0)
    module.codebook = torch.full((4,), 5.0)
    ema.step()
    assert ema.averages['codebook'].tolist() == [5.0] * 4


def test_shared_tensors_are_averaged_once():
    linear = nn.Linear(2, 2)
    module = nn.ModuleList([linear, nn.Linear(2, 2)])
    module[1].weight = linear.weight
    ema = ModuleEMA(module)
    assert set(ema.averages) == {'0.weight', '0.bias', '1.bias'}
    ema.step()
    with ema.averaged():
        assert torch.equal(module[1].weight, ema.averages['0.weight'])


def test_averaged_weights_of_a_spectral_norm_are_normalized():
    torch.manual_seed(0)
    conv = nn.utils.parametrizations.spectral_norm(nn.Conv1d(8, 8, 3), n_power_iterations=5)
    ema = ModuleEMA(conv, decay=0.9)
    optimizer = torch.optim.Adam(conv.parameters(), lr=0.02)
    for _ in range(40):
        conv(torch.randn(4, 8, 16)).square().mean().sub(3).square().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.step()
    conv.eval()
    assert list(ema.averages) == ['bias', 'parametrizations.weight.original']
    with ema.averaged(), torch.no_grad():
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(
            1.0, abs=0.05
        )


def test_a_state_of_another_module_is_refused():
    ema = ModuleEMA(nn.Linear(2, 3))
    with pytest.raises(
        ValueError, match=r"Linear: missing \['bias'\], unexpected \['other'\], .* \['weight'\]"
    ):
        ema.load_state_dict(
            {
                'averages': {'weight': torch.zeros(2), 'other': torch.zeros(1)},
                'count': 1.0,
                'calls': 1,
            }
        )


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r'decay must be in \[0, 1\), got 1'):
        ModuleEMA(nn.Linear(1, 1), decay=1.0)
    with pytest.raises(ValueError, match='every must be at least 1, got 0'):
        ModuleEMA(nn.Linear(1, 1), every=0)
    with pytest.raises(ValueError, match='ReLU has neither'):
        ModuleEMA(nn.ReLU())


def test_share_limits_the_span_of_early_averages():
    module = nn.Linear(1, 1, bias=False)
    ema = ModuleEMA(module, decay=0.75, share=0.5)
    expected, total = torch.zeros(1, 1), 0.0
    for n in range(1, 11):
        value = torch.full((1, 1), float(n))
        module.weight.data.copy_(value)
        ema.step()
        # spans of 0.5, 1, 1.5 ... updates, up to that of the decay: 3
        decay = min(0.75, 0.5 * n / (1 + 0.5 * n))
        expected, total = decay * total * expected + value, decay * total + 1
        expected = expected / total
        torch.testing.assert_close(ema.averages['weight'], expected)
    restored = ModuleEMA(nn.Linear(1, 1, bias=False), decay=0.75, share=0.5)
    restored.load_state_dict(ema.state_dict())
    assert restored.calls == 10
    assert restored.count == pytest.approx(total)


@pytest.mark.parametrize('share', [0, -0.1, 1.5])
def test_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match='share must be in'):
        ModuleEMA(nn.Linear(1, 1), share=share)
