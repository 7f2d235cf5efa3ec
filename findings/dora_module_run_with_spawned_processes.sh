#!/usr/bin/env bash
# A Dora program started by `python -m package.train` (as torchrun -m does) cannot start processes by spawn or forkserver,
# such as the workers of a data loader: each imports the module as __mp_main__, a name without a dot, where Dora's
# decorator looks for the package. Under `dora run` the same program works.
#
# Seen with dora-search 0.1.13, hydra-core 1.3.8: IndexError in the new process, and exit code 1 for it; with dora run, 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q dora-search==0.1.13 hydra-core==1.3.8 numpy
"$folder/venv/bin/pip" install -q torch==2.14.1
mkdir "$folder/p"
touch "$folder/p/__init__.py"
printf 'value: 1\ndora:\n  dir: outputs\n' > "$folder/p/config.yaml"
cat > "$folder/p/train.py" <<'Y'
import multiprocessing

from dora import hydra_main


@hydra_main(config_path='.', config_name='config', version_base='1.1')
def main(cfg):
    process = multiprocessing.get_context('spawn').Process(target=print, args=('hello',))
    process.start()
    process.join()
    print('exit code', process.exitcode)


if __name__ == '__main__':
    main()
Y
cd "$folder"
module=$(venv/bin/python -m p.train 2>&1 || true)
command=$(venv/bin/dora -P p run 2>&1 || true)
echo "$module" | tail -2
echo "$command" | tail -1
grep -q 'IndexError' <<< "$module" && grep -q 'exit code 1' <<< "$module" && grep -q 'exit code 0' <<< "$command" || {
    echo 'the behavior has changed'
    exit 1
}
