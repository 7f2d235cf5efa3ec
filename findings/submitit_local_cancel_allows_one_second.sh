#!/usr/bin/env bash
# A job of submitit's local executor that is cancelled gets SIGINT, and SIGKILL about one second later. A training that
# saves a checkpoint when it is interrupted is cut off while it writes, unlike under Slurm, where the same code has the
# grace time of the partition.
#
# Seen with submitit 1.5.4: of a job that needs three seconds to save, only the beginning is there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q submitit==1.5.4
cd "$folder"
cat > job.py <<'Y'
import time
from pathlib import Path


def train():
    Path('started').touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        begin = time.time()
        while time.time() - begin < 3:
            Path('saved').write_text(f'{time.time() - begin:.1f}')
            time.sleep(0.1)
        Path('complete').touch()
Y
cat > run.py <<'Y'
import time
from pathlib import Path

import submitit
from job import train

executor = submitit.LocalExecutor('jobs')
executor.update_parameters(timeout_min=5)
job = executor.submit(train)
while not Path('started').exists():
    time.sleep(0.1)
time.sleep(0.5)
job.cancel()
time.sleep(8)
seconds = float(Path('saved').read_text())
print(f'interrupted, then killed after {seconds} s of saving; complete: {Path("complete").exists()}')
assert seconds < 2, 'the behavior has changed: there is more time to save'
assert not Path('complete').exists()
Y
PYTHONPATH=. "$folder/venv/bin/python" run.py
