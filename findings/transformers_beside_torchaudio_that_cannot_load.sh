#!/usr/bin/env bash
# torchaudio 2.11.0, the last one, depends on no PyTorch, so pip installs it beside any. It loads beside recent CUDA
# builds, but not beside a CPU-only build nor beside PyTorch 2.8.0. transformers looks only whether torchaudio is
# installed, then imports it: models that need no audio loading at all (Mimi, EnCodec's feature extractor) cannot be
# imported, and the error names a library of torchaudio. DAC's and EnCodec's models can.
#
# Seen with torch 2.8.0, torchaudio 2.11.0, transformers 5.24.0:
#   EncodecFeatureExtractor: OSError ... torchaudio/lib/_torchaudio.abi3.so: undefined symbol: torch_library_impl
# The same beside torch 2.13.0+cpu: OSError: Could not load this library.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.8.0 torchaudio==2.11.0 transformers==5.24.0 numpy
"$folder/venv/bin/python" - <<'Y'

import torch
import transformers

print(torch.__version__, transformers.__version__)
found = {}
for name in ('EncodecModel', 'DacModel', 'MimiModel', 'EncodecFeatureExtractor'):
    try:
        getattr(transformers, name)
        found[name] = 'imported'
    except OSError as error:
        found[name] = f'OSError: {str(error)[-80:]}'
for name, outcome in found.items():
    print(f'{name}: {outcome}')
broken = [name for name, outcome in found.items() if 'torchaudio' in outcome or 'torch_library_impl' in outcome]
assert broken == ['MimiModel', 'EncodecFeatureExtractor'], f'the behavior has changed: {found}'
Y
