import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 2 MiB of its own."""
    folder = tmp_path / 'small'
    folder.mkdir()
    made = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', folder], capture_output=True)
    if made.returncode:
        pytest.skip('mounting a file system needs the rights of root')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)
