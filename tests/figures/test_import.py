import json
import subprocess
import sys

import numpy as np

from mlp_lightning import figures

HEAVY = ("matplotlib.pyplot", "seaborn", "pandas", "torch", "lightning")


def test_import_is_light():
    code = f"import sys, json, mlp_lightning.figures; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == []


def test_every_exported_name_exists():
    assert all(callable(getattr(figures, name)) for name in figures.__all__)


def test_no_figure_is_registered_for_closing():
    import matplotlib.pyplot as plt

    settings = dict(plt.rcParams)
    figures.to_rgb(figures.confusion_figure(np.eye(2, dtype=int), ["a", "b"], "t"))
    figures.to_rgb(figures.curves_figure({"val/loss": ([1, 2], [1, 2])}, "t"))
    figures.to_rgb(figures.weights_figure(np.ones((2, 4)), (2, 2), "t"))
    figures.to_rgb(figures.digits_figure(np.ones((2, 4, 4)), [0, 1], ["a", "b"], "t"))
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == settings
