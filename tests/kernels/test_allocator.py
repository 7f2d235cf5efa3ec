import subprocess
import sys

import pytest

from audiocodec.kernels.allocator import keep_freed_memory, return_freed_memory

PROGRAM = """
import resource
import torch
from audiocodec.kernels.allocator import keep_freed_memory, return_freed_memory
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
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='needs glibc')
def test_memory_of_large_tensors_is_reused():
    # Without it, 10 tensors of 64 MB would access 16384 new pages each, or 32 huge pages.
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 32 * 10 / 2


def test_on_other_systems_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'darwin')
    assert not keep_freed_memory()
    assert not return_freed_memory()


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='needs glibc')
def test_memory_between_parts_in_use_is_returned():
    def resident():
        with open('/proc/self/statm') as file:
            return int(file.read().split()[1]) * 4096

    parts = [bytearray(100_000) for _ in range(1000)]  # below the size that is mapped
    del parts[::2]
    before = resident()
    assert return_freed_memory()
    assert before - resident() > 40e6
