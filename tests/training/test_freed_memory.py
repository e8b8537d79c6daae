import subprocess
import sys

import pytest

# Page faults of 100 temporaries of 4 MB, about 1,000 pages each.
FAULTS = """
import resource, torch
from mlp_lightning.training.freed_memory import keep_freed_memory
torch.set_num_threads(1)
x = torch.ones(1_000_000)

def faults():
    for _ in range(5):
        (x + 1).add_(x + 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        (x + 1).add_(x + 2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
keep_freed_memory()
print(before, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_temporaries_get_the_pages_of_those_before_them():
    ended = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.split())
    assert after < 1000 < 20_000 < before
