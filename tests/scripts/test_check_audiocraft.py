"""The script's requirements, with a fake interpreter; installing and training take minutes."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts' / 'check_audiocraft.sh'
# "downloads" the archive at once; its pip cannot install anything
PYTHON = """#!/bin/sh
mkdir -p "$4/bin" "$4/audiocraft-1.3.0"
printf '%s\\n' '# a note' av==11.0.0 einops torch==2.1.0 torchvision==0.16.0 'xformers<0.0.23' \\
    > "$4/audiocraft-1.3.0/requirements.txt"
tar czf "$4/../audiocraft-1.3.0.tar.gz" -C "$4" audiocraft-1.3.0
printf '#!/bin/sh\\n[ "$1" = download ] || exit 7\\n' > "$4/bin/pip"
chmod +x "$4/bin/pip"
"""


def check(*arguments, **environment):
    return subprocess.run(
        [SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={'PATH': os.environ['PATH'], **environment},
    )


def test_it_installs_what_pytorch_2_1_accepts(tmp_path):
    python = tmp_path / 'pretender'
    python.write_text(PYTHON)
    python.chmod(0o755)
    folder = tmp_path / 'check'
    assert check(folder, PYTHON=str(python)).returncode == 7
    assert (folder / 'requirements.txt').read_text().split() == [
        'einops',
        'torch==2.1.0',
        'xformers<0.0.23',
        'av>=12,<13',
        'numpy<2',
        'transformers>=4.31,<4.46',
        'hydra-core<1.4',
    ]
    assert not (folder / 'installed').exists()


def test_it_needs_a_folder():
    done = check()
    assert done.returncode == 2
    assert done.stderr == 'usage: scripts/check_audiocraft.sh FOLDER\n'
