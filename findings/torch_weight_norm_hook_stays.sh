#!/usr/bin/env bash
# torch.nn.utils.parametrizations.weight_norm registers a local function as a load_state_dict hook. After
# remove_parametrizations the hook stays: the module is a plain one again, computes the same, and cannot be pickled.
# (With the parametrization in place PyTorch refuses to pickle by design, and says so.)
#
# Seen with torch 2.13.0: AttributeError: Can't pickle local object 'weight_norm.<locals>._weight_norm_compat_hook'
# (2.14.1 does the same).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'Y'
import pickle

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

conv = parametrizations.weight_norm(nn.Conv1d(2, 2, 3))
parametrize.remove_parametrizations(conv, 'weight')
assert not parametrize.is_parametrized(conv)
assert [name for name, _ in conv.named_parameters()] == ['bias', 'weight']
print(torch.__version__, 'hooks left:', len(conv._load_state_dict_pre_hooks))
try:
    pickle.dumps(conv)
except AttributeError as error:
    print('pickle:', error)
    assert '_weight_norm_compat_hook' in str(error)
else:
    raise SystemExit('the behavior has changed: the module can be pickled')
assert len(pickle.dumps(nn.Conv1d(2, 2, 3))) > 0
Y
