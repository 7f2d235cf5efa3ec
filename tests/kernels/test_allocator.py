import subprocess
import sys

import pytest

from audiocodec.kernels.allocator import keep_freed_memory

PROGRAM = """
import resource
import torch
from audiocodec.kernels.allocator import keep_freed_memory
keep_freed_memory()
def faults():
    torch.ones(2 ** 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    before = faults()
for _ in range(10):
    after = faults()
print(after - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the C library is another')
def test_large_tensors_are_made_in_memory_that_is_there():
    # 10 tensors of 64 MB: 16384 pages each, or 32 huge ones
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 32 * 10 / 2


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'darwin')
    assert not keep_freed_memory()
