#!/usr/bin/env bash
# speechmos 0.0.1.1: installs without a single dependency, but DNSMOS imports librosa, numpy, onnxruntime and requests
# (of which it uses nothing). `pip install speechmos` followed by the import of its README fails.
# The network itself, dnsmos_models/sig_bak_ovr.onnx in the wheel, needs onnxruntime alone; librosa serves the P.808 score.
#
# Seen: Requires-Dist: none; ModuleNotFoundError: No module named 'librosa'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q speechmos==0.0.1.1
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
from pathlib import Path

required = importlib.metadata.requires('speechmos')
print('Requires-Dist:', required or 'none')
assert not required, required
try:
    from speechmos import dnsmos  # noqa: F401
except ModuleNotFoundError as error:
    print(f'ModuleNotFoundError: {error}')
else:
    raise SystemExit('it imports now')
package = Path(importlib.metadata.distribution('speechmos').locate_file('speechmos'))
text = (package / 'dnsmos.py').read_text()
assert text.count('session') == 1 + text.count('onnx_session'), 'requests is used now'
assert (package / 'dnsmos_models' / 'sig_bak_ovr.onnx').is_file()
PYTHON
