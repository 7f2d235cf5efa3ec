#!/usr/bin/env bash
# MimiModel.decode in chunks with use_cache=True and the returned decoder_cache does not give the waveform of the whole:
# the cache has the keys and values of the decoder's transformer, but not the inputs of its convolutions, which start at
# zeros in every chunk. The first frame of each chunk is wrong and clicks; all others are equal up to rounding.
#
# Seen with transformers 5.24.0, torch 2.14.1, random weights, chunks of 10 frames: frames 10, 20 and 30 differ by 33 % of
# the peak, the others by less than 1e-6 of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 transformers==5.24.0 numpy
"$folder/venv/bin/python" - <<'Y'
import torch
from transformers import MimiConfig, MimiModel

CHUNK, FRAMES, HOP = 10, 40, 1920
torch.manual_seed(0)
sizes = {'hidden_size': 16, 'intermediate_size': 16, 'head_dim': 8, 'num_filters': 4, 'upsample_groups': 16}
heads = {'num_hidden_layers': 1, 'num_attention_heads': 2, 'num_key_value_heads': 2}
books = {'codebook_size': 16, 'codebook_dim': 8, 'vector_quantization_hidden_dimension': 8, 'num_quantizers': 4}
model = MimiModel(MimiConfig(**sizes, **heads, **books)).eval()
codes = torch.randint(0, 16, (1, 4, FRAMES))
with torch.no_grad():
    whole = model.decode(codes).audio_values[0, 0]
    cache, parts = None, []
    for part in codes.split(CHUNK, dim=-1):
        found = model.decode(part, decoder_cache=cache, use_cache=True)
        cache = found.decoder_cache
        parts.append(found.audio_values[0, 0])
difference = (torch.cat(parts) - whole).abs().view(FRAMES, HOP).amax(1) / whole.abs().max()
wrong = (difference > 1e-3).nonzero().flatten().tolist()
print(f'frames that differ: {wrong}, by up to {difference.max():.2f} of the peak; others by {difference[1]:.1e}')
assert cache is not None and wrong == [10, 20, 30], 'the behavior has changed'
Y
