"""``check`` passes on every shipped config on this processor, and with the instructions of an older one only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer

CONFIGS = sorted(Path(__file__).parents[3].glob("configs/*.yaml"))
# What torch's own kernels and its two libraries may use.
INSTRUCTIONS = {
    "native": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}


@pytest.mark.slow
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_pass(path, instructions, tmp_path):
    command = [sys.executable, "-m", "mlp_lightning", "check", "--config", str(path)]
    if path.stem == "table":
        load_breast_cancer(as_frame=True).frame.to_csv(tmp_path / "table.csv", index=False)
        command += ["--data.root", str(tmp_path / "table.csv"), "--data.label", "target"]
    if path.stem == "fashion":
        # Pictures of the same shape, which come with the package.
        command += ["--data.dataset", "mnist"]
    environment = {**os.environ, **INSTRUCTIONS[instructions]}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout.splitlines()[-1:] + result.stderr.splitlines()[-5:]
