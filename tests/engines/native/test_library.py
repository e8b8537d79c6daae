import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mlp_lightning.engines.native import chain as native_chain
from mlp_lightning.engines.native import library as native
from mlp_lightning.engines.native.compile import compilation, sources
from mlp_lightning.engines.native.library import function_of_torch, is_native, library, shares_threads
from mlp_lightning.engines.native.passes import NativePasses
from mlp_lightning.nn import MLP

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture
def fresh():
    """Forget what was compiled, before and after."""
    for cached in (library, compilation):
        cached.cache_clear()
    yield
    for cached in (library, compilation):
        cached.cache_clear()


@needs_compiler
def test_compiles():
    functions = library()
    assert all(hasattr(functions, name) for name in ("adam", "linear_forward", "softmax_cross_entropy"))


@pytest.mark.parametrize("compiler", ["", "no-such-compiler", "false"])
def test_nothing_without_a_compiler(monkeypatch, fresh, compiler):
    monkeypatch.setenv("CC", compiler)
    assert library() is None


@needs_compiler
def test_nothing_with_a_library_that_cannot_be_loaded(monkeypatch, fresh, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho broken > "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert library() is None


@needs_compiler
def test_what_was_compiled_is_deleted_once_it_is_loaded(monkeypatch, fresh, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    compiled = compilation()
    assert list(tmp_path.iterdir())
    assert library() is not None
    assert not list(tmp_path.iterdir())
    assert compiled is compilation()


@needs_compiler
@pytest.mark.parametrize("seconds", [0, 0.05, 0.2])
def test_a_compiler_that_is_not_waited_for_leaves_nothing(tmp_path, seconds):
    program = "import time; from mlp_lightning.engines.native.compile import compilation; compilation(); "
    program += f"time.sleep({seconds})"
    command = [sys.executable, "-c", program]
    subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(tmp_path)}, cwd=Path(__file__).parents[3])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        pytest.param(torch.zeros(3), True, id="float32"),
        pytest.param(torch.zeros(3, dtype=torch.float64), False, id="float64"),
        pytest.param(torch.zeros(3, device="meta"), False, id="elsewhere"),
        pytest.param(torch.zeros(3, 2)[:, 0], False, id="strided"),
    ],
)
def test_is_native(tensor, expected):
    assert is_native(tensor, torch.zeros(3)) is expected


def test_the_sources_are_packaged():
    names = [path.rsplit("/", 1)[1] for path in sources()]
    assert names == ["adam.c", "denormals.c", "layers.c", "losses.c", "passes_bf16.c", "passes_f32.c", "steps.c"]


@needs_compiler
def test_the_passes_need_an_openmp_that_is_torchs(monkeypatch):
    """Else each of their threads would have BLAS start a team of its own."""
    assert shares_threads()
    for cached in (shares_threads, native_chain._product):
        cached.cache_clear()
    monkeypatch.setattr(native, "function_of_torch", lambda name: ctypes.c_void_p(1))
    try:
        assert not native_chain.has_chain(is_mixed=False)
        network = MLP((5, 3, 2), dtype=torch.float32)
        workspace = NativePasses(network)
        x = torch.rand(4, 5)
        torch.testing.assert_close(workspace.forward(x), network(x)[0])
        assert workspace.is_native
    finally:
        for cached in (shares_threads, native_chain._product):
            cached.cache_clear()


def test_functions_of_torch():
    assert function_of_torch("no_such_function") is None
