import os
import subprocess
import sys

import pytest

# Page faults of 160 temporaries of 4 MB, about 1,000 pages each.
FAULTS = """
import resource, torch
from mlp_lightning.training.process.freed_memory import keep_freed_memory
torch.set_num_threads(1)
x = torch.ones(1_000_000)

def faults():
    for k in range(25):
        if k == 5:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        parts = [x + part for part in range(8)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
keep_freed_memory()
print(before, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_temporaries_get_the_pages_of_those_before_them():
    # Given a threshold, the allocator learns none by itself, and hands back every one of them.
    known = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072"}
    ended = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=known)
    before, after = map(int, ended.stdout.split())
    assert after < 10_000 < 100_000 < before
