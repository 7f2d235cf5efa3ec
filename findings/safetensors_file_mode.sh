#!/usr/bin/env bash
# safetensors.torch.save_file makes its file readable for the owner alone, whatever the umask says: on a shared cluster,
# colleagues cannot load the weights that they were given, while config.json and other files beside them are readable.
# torch.save and an ordinary open() follow the umask.
#
# Seen with safetensors 0.8.0 and a umask of 022: model.safetensors 600, plain file 644.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.2.6
cd "$folder"
umask 022
"$folder/venv/bin/python" - <<'Y'
import os
import stat

import numpy
from safetensors.numpy import save_file

save_file({'weight': numpy.zeros(3, dtype=numpy.float32)}, 'model.safetensors')
open('plain', 'w').close()
modes = {name: oct(stat.S_IMODE(os.stat(name).st_mode)) for name in ('model.safetensors', 'plain')}
print(modes)
assert modes == {'model.safetensors': '0o600', 'plain': '0o644'}, 'the behavior has changed'
Y
