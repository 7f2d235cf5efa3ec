#!/usr/bin/env bash
# visqol-python 3.8.0: noise scored against a silent reference gets 4.7321, the best score that audio mode has.
# The other way round, silence against noise gives NaN. An evaluation that averages such items hides a codec that adds
# noise to digital silence; leave out items whose reference is silent.
#
# Seen: silent reference: 4.7321, silent estimate: nan, equal: 4.7321
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q visqol-python==3.8.0 numpy==2.2.6 scipy==1.15.3
"$folder/venv/bin/python" - <<'PYTHON'
import math
import warnings

import numpy as np
from visqol import VisqolApi

warnings.simplefilter('ignore')
api = VisqolApi()
api.create(mode='audio')
noise = 0.1 * np.random.default_rng(0).standard_normal(2 * 48000)
silence = np.zeros_like(noise)
scores = {
    'silent reference': api.measure_from_arrays(silence, noise, 48000).moslqo,
    'silent estimate': api.measure_from_arrays(noise, silence, 48000).moslqo,
    'equal': api.measure_from_arrays(noise, noise, 48000).moslqo,
}
print(', '.join(f'{name}: {score:.4f}' for name, score in scores.items()))
assert abs(scores['silent reference'] - scores['equal']) < 1e-3, scores
assert math.isnan(scores['silent estimate']), scores
PYTHON
