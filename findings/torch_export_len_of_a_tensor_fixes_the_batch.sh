#!/usr/bin/env bash
# In a module that torch.export traces with a dynamic batch, len(x) is a plain integer, so the batch size of the example
# becomes a constant and the export is refused; x.shape[0], the same number in eager mode, stays symbolic.
#
# Seen with torch 2.14.1: with x.shape[0] the program runs on another batch size; with len(x) torch.export.export raises
# an error about the dimension, which was marked as dynamic.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy
"$folder/venv/bin/python" - <<'Y'
import torch
from torch import nn
from torch.export import Dim, export


class ByShape(nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0], -1)


class ByLen(nn.Module):
    def forward(self, x):
        return x.reshape(len(x), -1)


def program(module):
    return export(module, (torch.ones(3, 2, 4),), dynamic_shapes=({0: Dim('batch')},)).module()


assert program(ByShape())(torch.ones(5, 2, 4)).shape == (5, 8)
try:
    program(ByLen())
except Exception as error:
    print(f'len(x): {type(error).__name__}: {str(error).strip().splitlines()[0][:100]}')
else:
    raise AssertionError('the behavior has changed')
Y
