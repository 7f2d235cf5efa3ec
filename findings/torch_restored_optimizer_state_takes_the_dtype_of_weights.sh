#!/usr/bin/env bash
# `Optimizer.load_state_dict` converts every state of floating point but `step` to the type of its parameter, without a
# word. An optimizer that keeps moments in bfloat16 beside float32 weights takes half the memory until it is resumed, and
# as much as before from then on; a float64 sum of an optimizer loses its digits. `dtype` is in the saved state, and not
# read. A state whose name is `step` keeps its type.
#
# Seen with torch 2.14.1: bfloat16 -> float32, float64 -> float32, and `step` stays float64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy
"$folder/venv/bin/pip" install -q torch==2.14.1
cat > "$folder/restore.py" <<'P'
import torch


class Plain(torch.optim.Optimizer):
    """Keeps an average in bfloat16, and a sum and a count in float64."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group['params']:
                state = self.state[parameter]
                if not state:
                    state['average'] = torch.zeros_like(parameter, dtype=torch.bfloat16)
                    state['sum'] = torch.full_like(parameter, 1 / 3, dtype=torch.float64)
                    state['step'] = torch.zeros((), dtype=torch.float64)
                state['step'] += 1


weights = [torch.nn.Parameter(torch.zeros(1000))]
first = Plain(weights)
first.step()
torch.save(first.state_dict(), 'state.pt')
saved = torch.load('state.pt')
second = Plain(weights)
second.load_state_dict(saved)
before, after = saved['state'][0], second.state[weights[0]]
for name in before:
    print(f'{name}: {before[name].dtype} -> {after[name].dtype}')
assert (before['average'].dtype, after['average'].dtype) == (torch.bfloat16, torch.float32)
assert (before['sum'].dtype, after['sum'].dtype) == (torch.float64, torch.float32)
assert not torch.equal(before['sum'], after['sum'].double())
assert after['step'].dtype == torch.float64
P
(cd "$folder" && venv/bin/python restore.py) || {
    echo 'the behavior has changed'
    exit 1
}
