import subprocess
import sys

import pytest
import torch

from audiocodec.optim import Bfloat16Adam, MatrixDecayAdamW, Muon, step
from audiocodec.optim.step import step_if


@pytest.mark.parametrize('options', [{'fused': True}, {'foreach': True}], ids=str)
def test_a_skipped_step_changes_nothing(options):
    weights, plain = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    optimizer = torch.optim.Adam([weights], lr=0.1, **options)
    reference = torch.optim.Adam([plain], lr=0.1, **options)
    for ok in (True, False, True, False):
        weights.grad = torch.full((5,), 0.5 if ok else float('nan'))
        step_if(optimizer, torch.tensor(ok))
        if ok:
            plain.grad = torch.full((5,), 0.5)
            reference.step()
        assert torch.equal(weights, plain)
    for name, value in reference.state[plain].items():
        assert torch.equal(optimizer.state[weights][name], value), name
    assert not hasattr(optimizer, 'found_inf')


def test_a_device_whose_fused_optimizers_ignore_the_flag(monkeypatch):
    monkeypatch.setattr(step, '_FLAG_IGNORED', {'cpu'})
    weights = torch.nn.Parameter(torch.ones(5))
    optimizer = torch.optim.Adam([weights], lr=0.1, fused=True)
    weights.grad = torch.full((5,), float('nan'))
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append('step'))
    step_if(optimizer, torch.tensor(False))
    assert not calls
    weights.grad = torch.ones(5)
    step_if(optimizer, torch.tensor(True))
    assert calls == ['step']
    assert (weights < 1).all()


def test_other_optimizers_are_skipped_by_the_host():
    weights = torch.nn.Parameter(torch.ones(5))
    weights.grad = torch.ones(5)
    optimizer = torch.optim.RMSprop([weights], lr=0.1)
    step_if(optimizer, torch.tensor(False))
    assert torch.equal(weights, torch.ones(5))
    step_if(optimizer, torch.tensor(True))
    assert (weights < 1).all()


def test_optimizers_are_created_without_the_compiler():
    """Its import takes a second. If this fails, a release of PyTorch imports it elsewhere."""
    code = (
        'import sys, torch; from audiocodec.optim.step import without_compiler\n'
        'before = torch.optim.Optimizer.add_param_group\n'
        'with without_compiler():\n'
        '    optimizer = torch.optim.Adam([torch.zeros(1)])\n'
        '    optimizer.add_param_group({"params": [torch.zeros(2)]})\n'
        'assert len(optimizer.param_groups) == 2\n'
        'assert torch.optim.Optimizer.add_param_group is before\n'
        'print("torch._dynamo" in sys.modules)'
    )
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == 'False'


@pytest.mark.parametrize('kind', [Bfloat16Adam, MatrixDecayAdamW, Muon])
def test_optimizers_of_ours_work_with_a_scaled_loss(kind):
    torch.manual_seed(0)
    start = [torch.randn(4, 6), torch.randn(4)]
    options = {'fused': True} if kind is MatrixDecayAdamW else {}
    ends = []
    for scale in (None, 1024.0):
        parameters = [torch.nn.Parameter(value.clone()) for value in start]
        optimizer = kind(parameters, lr=0.1, eps=1e-2, **options)  # the scale of gradients counts
        scaler = torch.amp.GradScaler('cpu', init_scale=scale or 1.0, growth_interval=2)
        for factor in (1.0, 1.0, 3.0, float('inf'), 2.0):
            optimizer.zero_grad()
            loss = factor * sum((p**2).sum() for p in parameters)
            if scale is not None:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            elif factor < float('inf'):
                loss.backward()
                optimizer.step()
        ends.append(parameters)
    for plain, scaled, before in zip(*ends, start):
        torch.testing.assert_close(scaled, plain)
        assert not torch.equal(plain, before)
