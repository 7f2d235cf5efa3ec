#!/usr/bin/env bash
# ResidualFSQ of vector-quantize-pytorch multiplies the gradient of the encoder by the number of its quantizers: each of
# them rounds the residual of the previous ones, which is detached only in its quantized part, and the straight-through
# gradients of all of them add up. A learning rate tuned with one quantizer is several times too high with several.
#
# Seen with vector-quantize-pytorch 1.32.0, torch 2.14.1: with 9 levels per channel, the median gradient with 2 and 4
# quantizers is 1.8 and 3.5 times that with one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 vector-quantize-pytorch==1.32.0 numpy
"$folder/venv/bin/python" - <<'Y'
import torch
from vector_quantize_pytorch import ResidualFSQ

torch.manual_seed(0)
latents = torch.randn(1, 1000, 4)


def median_gradient(quantizers):
    quantizer = ResidualFSQ(levels=[9] * 4, num_quantizers=quantizers, dim=4)
    leaf = latents.clone().requires_grad_()
    quantized, _ = quantizer(leaf)
    quantized.sum().backward()
    return leaf.grad.median().item()


one, two, four = (median_gradient(number) for number in (1, 2, 4))
print(f'relative to one quantizer: {two / one:.2f} with two, {four / one:.2f} with four')
assert 1.6 < two / one < 2.1 and 3.2 < four / one < 4.2, 'the behavior has changed'
Y
