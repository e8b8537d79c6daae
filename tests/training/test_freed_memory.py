import subprocess
import sys

import pytest

# Page faults of 100 temporaries of 4 MB, about 1,000 pages each.
FAULTS = """
import resource, torch
from mlp_lightning.training.freed_memory import keep_freed_memory
if {kept}:
    keep_freed_memory()
torch.set_num_threads(1)
x = torch.ones(1_000_000)
for _ in range(5):
    (x + 1).add_(x + 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    (x + 1).add_(x + 2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_temporaries_get_the_pages_of_those_before_them():
    def faults(kept):
        code = FAULTS.format(kept=kept)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert faults(True) < 1000 < 20_000 < faults(False)
