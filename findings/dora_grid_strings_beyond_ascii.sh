#!/usr/bin/env bash
# A grid of Dora hands strings to Hydra as JSON in ASCII. Hydra's grammar knows no \u escapes and keeps backslashes, so
# a value with letters beyond ASCII, or with a backslash, arrives as another string, without an error.
#
# Seen with dora-search 0.1.13 and hydra-core 1.3.8: 'música' arrives as 'm\u00fasica', 'a\b' as 'a\\b'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q dora-search==0.1.13 hydra-core==1.3.8
mkdir -p "$folder/pack/conf"
cat > "$folder/pack/conf/config.yaml" <<'Y'
path: none
dora: {dir: outputs}
Y
cat > "$folder/pack/train.py" <<'Y'
from dora import hydra_main


@hydra_main(config_path='conf', config_name='config', version_base='1.1')
def main(cfg):
    print(cfg.path)
Y
touch "$folder/pack/__init__.py"
cd "$folder"
"$folder/venv/bin/python" - <<'Y'
from pack.train import main

expected = {'plain': 'plain', 'm\u00fasica': 'm\\u00fasica', 'a\\b': 'a\\\\b'}
for given, seen in expected.items():
    found = main.get_xp(main.value_to_argv({'path': given})).cfg.path
    print(f'{given!r} arrives as {found!r}')
    assert found == seen, f'the behavior has changed: {found!r}'
Y
