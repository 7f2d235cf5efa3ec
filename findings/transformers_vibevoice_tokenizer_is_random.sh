#!/usr/bin/env bash
# VibeVoiceAcousticTokenizerModel encodes the same audio differently each time, in eval mode, too: encode and forward
# add noise to the latents unless they get sample=False, with a scale drawn for each item (deviation vae_std, 0.625 by
# default), so that one reconstruction may be fine and the next one is not.
#
# Seen with transformers 5.24.0, torch 2.14.1: two calls of encode in eval mode differ by more than 0.1; with
# sample=False they are equal.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 transformers==5.24.0 numpy
"$folder/venv/bin/python" - <<'Y'
import torch
from transformers import VibeVoiceAcousticTokenizerConfig, VibeVoiceAcousticTokenizerModel

torch.manual_seed(0)
options = {'num_filters': 2, 'downsampling_ratios': [2, 4, 5], 'depths': [1, 1, 1, 1]}
model = VibeVoiceAcousticTokenizerModel(VibeVoiceAcousticTokenizerConfig(**options)).eval()
wav = 0.1 * torch.randn(1, 1, 4000)


@torch.no_grad()
def difference(**options):
    first, second = (model.encode(wav, **options).latents for _ in range(2))
    return (first - second).abs().max().item()


default, plain = difference(), difference(sample=False)
print(f'two calls differ by {default:.3f}; with sample=False by {plain:.3f}')
assert default > 0.1 and plain == 0, 'the behavior has changed'
Y
