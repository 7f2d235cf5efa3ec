#!/usr/bin/env bash
# Creating the first optimizer of a process imports torch._dynamo, as does torch.compiler.disable as a decorator of a
# function that is never compiled. Neither is part of `import torch`, and a program that compiles nothing pays for it, too:
# 892 modules, and three quarters of the CPU time of `import torch` itself.
#
# Seen with torch 2.14.1: 892 more modules in 1.0 s of CPU, after 1.3 s for `import torch`, both ways.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy
"$folder/venv/bin/pip" install -q torch==2.14.1
cat > "$folder/count.py" <<'P'
import sys
import time

begin = time.process_time()
import torch

torch_time, modules = time.process_time() - begin, len(sys.modules)
assert 'torch._dynamo' not in sys.modules
begin = time.process_time()
if sys.argv[1] == 'optimizer':
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
else:
    torch.compiler.disable(lambda: None)
seconds = time.process_time() - begin
print(f'{sys.argv[1]}: {len(sys.modules) - modules} more modules, {seconds:.1f} s of CPU; import torch {torch_time:.1f} s')
assert 'torch._dynamo' in sys.modules
assert len(sys.modules) - modules > 300
P
for what in optimizer decorator; do
    "$folder/venv/bin/python" "$folder/count.py" "$what" || {
        echo 'the behavior has changed'
        exit 1
    }
done
