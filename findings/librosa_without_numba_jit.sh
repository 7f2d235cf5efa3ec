#!/usr/bin/env bash
# NUMBA_DISABLE_JIT=1, Numba's switch to run everything as plain Python, makes mel spectrograms of librosa fail: one of
# its modules declares a generalized ufunc over a stencil, which Numba compiles in spite of the switch, and the compiler
# then finds a plain function where it expects a compiled one. After one run without the switch, the same command
# works, since the compiled ufunc is found in Numba's cache. So whether it fails depends on what ran before.
#
# Seen with librosa 0.11.0, numba 0.68.1: AttributeError: 'function' object has no attribute 'get_call_template'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q librosa==0.11.0 numba==0.68.1
export NUMBA_CACHE_DIR="$folder/cache"
mel() {
  "$folder/venv/bin/python" -c '
import librosa, numpy
print(librosa.feature.melspectrogram(y=numpy.ones(8000, numpy.float32), sr=16000).shape)' 2>&1 | tail -1
}
first=$(NUMBA_DISABLE_JIT=1 mel || true)
echo "without compiler, nothing cached: $first"
echo "with compiler: $(mel)"
again=$(NUMBA_DISABLE_JIT=1 mel || true)
echo "without compiler, cached: $again"
[ "$first" = "AttributeError: 'function' object has no attribute 'get_call_template'" ] \
  && [ "$again" = "(128, 16)" ] || { echo "the behavior has changed"; exit 1; }
