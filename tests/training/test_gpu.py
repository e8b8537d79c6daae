"""On a CUDA device the same config trains as on the CPU, up to rounding."""

import pytest
import torch

OPTIONS = ["--test", "never", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "20"]


@pytest.mark.gpu
@pytest.mark.parametrize("config", ["relu.yaml", "adam.yaml", "adam_norm.yaml"])
def test_cuda_trains_as_the_cpu_does(run_cli, tmp_path, config):
    weights = {}
    for accelerator in ("cpu", "cuda"):
        root = ["--trainer.default_root_dir", tmp_path / accelerator, "--trainer.log_every_n_steps", 5]
        cli = run_cli("fit", "--config", config, *OPTIONS, *root, "--trainer.accelerator", accelerator)
        weights[accelerator] = cli.model.network.flat.detach().cpu()
    torch.testing.assert_close(weights["cuda"], weights["cpu"], rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_check_passes_for_a_module_trained_on_cuda(run_main):
    run_main("check", "--config", "relu.yaml", "--trainer.accelerator", "cuda", "--model.hidden", "[30]")
