"""``check`` proves the engine that ``fit`` would have: faults planted in its C sources.

Each fault is planted in a copy of the sources, which a process of its own compiles.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlp_lightning.engines.native import compile as compile_file
from mlp_lightning.engines.native.chain import has_chain

SOURCES = Path(compile_file.__file__).parent / "src"
PROGRAM = """
import sys
from pathlib import Path
from mlp_lightning.engines.native import compile
compile.sources = lambda: sorted(str(path) for path in Path(sys.argv[1]).glob("*.c"))
from mlp_lightning.cli.start import main
main(sys.argv[2:])
"""
CONFIG = ["--config", "relu.yaml", "--model.hidden", "[70,40]", "--trainer.accelerator", "cpu"]

needs_chain = pytest.mark.skipif(not has_chain(is_mixed=False), reason="no compiler or BLAS")
needs_tiles = pytest.mark.skipif(not has_chain(is_mixed=True), reason="no bfloat16 products in hardware")


def checked(folder: Path, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), "check", *CONFIG, "--data.root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def plant(folder: Path, file: str, right: str, wrong: str) -> Path:
    """A copy of the C sources with a fault in one of them."""
    shutil.copytree(SOURCES, folder)
    text = (folder / file).read_text()
    assert text.count(right) == 1, f"{file} has {text.count(right)} times {right!r}"
    (folder / file).write_text(text.replace(right, wrong))
    return folder


@needs_chain
@pytest.mark.parametrize(
    ("file", "right", "wrong", "options", "part"),
    [
        pytest.param(
            "steps.c",
            "rows * classes, dloss);",
            "rows * classes, 1.001f * dloss);",
            [],
            "groups",
            id="scale of dlogits",
        ),
        pytest.param(
            "steps.c",
            "coefficients + 3 * taken;",
            "coefficients + 3 * (taken ? taken - 1 : 0);",
            ["--model.schedule", "cosine"],
            "groups",
            id="coefficients a step late",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "steps.c",
            "backward(chain, x[taken], dlogits",
            "backward(chain, x[0], dlogits",
            [],
            "groups",
            id="another minibatch",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "adam.c",
            "adam->one_minus_beta2, rate, 0, eps);",
            "adam->one_minus_beta2, rate, 0, 1.01f * eps);",
            ["--model.optimizer", "adam"],
            "groups",
            id="eps of adam in groups",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "passes_f32.c",
            "p->rows, l.fan_out, how->alpha, how->bias_beta);",
            "p->rows, l.fan_out, 1.01f * how->alpha, how->bias_beta);",
            [],
            "gradient of layers.0.bias, steps 1–20 (updates, float32)",
            id="biases",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "passes_f32.c",
            "sparse_backward(&some, weight, how->alpha, how->beta);",
            "sparse_backward(&some, weight, 1.01f * how->alpha, how->beta);",
            [],
            "gradient of layers.0.weight, steps 1–20 (updates, float32)",
            id="gradients where zeros are skipped",
        ),
        pytest.param(
            "passes_bf16.c",
            "count, c + j, p->stride, t > 0);",
            "count, c + j, p->stride, 0);",
            ["--trainer.precision", "bf16-mixed"],
            "(updates, bf16-mixed)",
            id="sums of tiles",
            marks=needs_tiles,
        ),
        pytest.param(
            "passes_bf16.c",
            "l->input + j / SIDE * tiles * WORDS, tiles * WORDS, tiles, c,",
            "l->input + j / SIDE * tiles * WORDS, tiles * WORDS, tiles / 2, c,",
            ["--trainer.precision", "bf16-mixed"],
            "(updates, bf16-mixed)",
            id="samples of tiles",
            marks=needs_tiles,
        ),
    ],
)
def test_a_fault_in_c_is_found(tmp_path, cache_home, digits, file, right, wrong, options, part):
    found = checked(plant(tmp_path / "src", file, right, wrong), cache_home, *options)
    assert found.returncode == 1, found.stderr
    closing = found.stdout.splitlines()[-1]
    assert "FAILED" in closing
    assert part in closing


@needs_chain
def test_the_sources_as_they_are_pass(tmp_path, cache_home, digits):
    shutil.copytree(SOURCES, tmp_path / "src")
    found = checked(tmp_path / "src", cache_home)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "in groups of 7, which are one call of the engine" in found.stdout
