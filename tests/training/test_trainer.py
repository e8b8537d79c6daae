"""``check`` and ``explain`` as the user types them."""

import pytest

from mlp_lightning.nn import linear

SMALL = ["--model.hidden", "[12]", "--data.batch_size", "16", "--trainer.accelerator", "cpu"]


def test_check_passes_and_leaves_no_run_behind(run_main, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_main("check", "--config", "adam.yaml", *SMALL)
    assert " checks passed" in capsys.readouterr().out.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_check_of_a_wrong_formula_exits_with_1_and_names_the_tensor(run_main, monkeypatch, capsys):
    right = linear.linear_backward

    def forgets_a_sample(dz, x, dweight, dbias):
        right(dz[1:], x[1:], dweight, dbias)

    monkeypatch.setattr("mlp_lightning.nn.mlp.linear_backward", forgets_a_sample)
    with pytest.raises(SystemExit) as caught:
        run_main("check", "--config", "relu.yaml", *SMALL)
    assert caught.value.code == 1
    closing = capsys.readouterr().out.splitlines()[-1]
    assert "FAILED" in closing
    assert "layers.1.weight" in closing


def test_check_takes_the_weights_and_options_of_a_checkpoint(run_main, tmp_path, capsys):
    fit = [
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_train_batches",
        "3",
        "--test",
        "never",
        "--trainer.log_every_n_steps",
        "1",
    ]
    run_main("fit", "--config", "tanh.yaml", *SMALL, *fit, "--trainer.default_root_dir", str(tmp_path))
    (path,) = tmp_path.rglob("last.ckpt")
    run_main("check", "--ckpt_path", str(path), "--trainer.accelerator", "cpu")
    printed = capsys.readouterr().out
    assert "12 × 784" in printed
    assert "checks passed" in printed


def test_explain_prints_and_writes_the_page(run_main, tmp_path, capsys):
    page = tmp_path / "step.html"
    run_main("explain", "--config", "adam.yaml", *SMALL, "--sample", "3", "--html", str(page))
    printed = capsys.readouterr().out
    assert "784-12-10, relu, float32" in printed
    assert "dW₁ = dZ₁ᵀ X" in printed
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["explain", "--config", "relu.yaml", "--sample", "-1"], "--sample: got -1, must be from 0 to"),
        (["explain", "--config", "relu.yaml", "--html", "/nowhere/x.html"], "--html"),
        (
            ["check", "--config", "relu.yaml", "--ckpt_path", "nowhere.ckpt"],
            "--ckpt_path: there is no file nowhere.ckpt",
        ),
        (["compare"], "compare: got no config"),
        (["compare", "nowhere.yaml"], "there is no file 'nowhere.yaml'"),
    ],
    ids=["sample", "html", "checkpoint", "nothing to compare", "config"],
)
def test_wrong_input_is_one_line(run_main, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        run_main(*options, *(SMALL if options[0] != "compare" else []))
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
