"""What a user may get wrong: each row is a command line, and what its one line of error must say."""

import os
import pickle
import shlex
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_lightning.cli import start

TRAIN = Path(__file__).resolve().parents[2] / "train.py"

# No row can train for long, should it be taken after all.
FIT = (
    "fit --trainer.accelerator cpu --trainer.devices 1 --trainer.max_epochs 1 --trainer.limit_train_batches 2 "
    "--trainer.log_every_n_steps 1 --trainer.enable_progress_bar false --model.hidden [4] --data.dataset fashion_mnist "
    "--data.root ROOT --data.batch_size 10 --data.validation_size 10"
)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype("u1").tobytes()


def check(message: str, expected: tuple[str, ...]) -> None:
    for part in expected:
        assert part in message


def says(*rows: tuple[str, ...]) -> pytest.MarkDecorator:
    """Rows of a command line's own part and what its error must contain."""
    parameters = [pytest.param(row[0], row[1:], id=row[0].replace("--", "") or "nothing") for row in rows]
    return pytest.mark.parametrize(("options", "expected"), parameters)


@says(
    ("", "subcommand", "nothing", "fit, validate, test", "draw"),
    ("train", "subcommand", "got train", "init, fit, validate, test"),
    ("--config relu.yaml", "subcommand", "fit, validate, test"),
    ("--config relu.yaml fit", "--config", "after", "fit"),
    ("--verbose", "verbose", "no such option"),
)
def test_command(options: str, expected: tuple[str, ...], error_of: Callable[..., str]) -> None:
    check(error_of(options), expected)


@says(
    ("--model.hiden [3]", "model.hiden", "did you mean model.hidden?"),
    ("--trainer.max_epocs 3", "trainer.max_epocs", "did you mean trainer.max_epochs?"),
    ("--lr 0.1", "lr", "did you mean model.lr?"),
    ("--patiense 3", "patiense", "did you mean patience?"),
    ("--model.foo 3", "model.foo", "no such option"),
    ("--model.l 3", "model.l", "model.lr", "model.loss"),
    ("stray", "stray", "no such option"),
    ("--model.lr", "model.lr", "nothing", "a value"),
    ("--model.lr=", "model.lr", "nothing", "a number"),
    ("--config", "config", "nothing", "a value"),
    ("--model.seed 3", "model.seed", "seed_everything"),
    ("--data.seed 3", "data.seed", "seed_everything"),
    ("--model 3", "model", "got 3", "options by name"),
    ("--print_config=foo", "foo", "print_config"),
)
def test_option_names(options: str, expected: tuple[str, ...], error_of: Callable[..., str]) -> None:
    check(error_of(f"{FIT} {options}"), expected)


@says(
    ("--model.activation foo", "model.activation", "got foo", "relu"),
    ("--model.init foo", "model.init", "got foo", "he_normal"),
    ("--model.norm foo", "model.norm", "got foo", "none, batch, layer"),
    ("--model.loss foo", "model.loss", "got foo", "cross_entropy, mse"),
    ("--model.reduction null", "model.reduction", "got null", "mean, sum"),
    ("--model.optimizer foo", "model.optimizer", "got foo", "sgd, adam"),
    ("--model.schedule foo", "model.schedule", "got foo", "constant, step"),
    ("--data.dataset foo", "data.dataset", "got foo", "mnist, fashion_mnist"),
    ("--data.dataset [mnist]", "data.dataset", "got ['mnist']", "mnist, fashion_mnist"),
    ("--data.validation foo", "data.validation", "got foo", "holdout, per_batch"),
    ("--test foo", "test", "got foo", "best, last, never"),
    ("--trainer.precision foo", "trainer.precision", "got foo", "bf16-true"),
)
def test_choices(options: str, expected: tuple[str, ...], error_of: Callable[..., str]) -> None:
    check(error_of(f"{FIT} {options}"), expected)


@says(
    ("--model.lr fast", "model.lr", "got fast", "a number"),
    ("--model.lr true", "model.lr", "got true", "a number"),
    ("--model.lr null", "model.lr", "got null", "a number"),
    ("--model.lr [1]", "model.lr", "got [1]", "a number"),
    ("--model.lr nan", "model.lr", "got nan", "a number"),
    ("--model.clip_norm foo", "model.clip_norm", "got foo", "a number or null"),
    ("--model.hidden 5", "model.hidden", "got 5", "a list"),
    ("--model.hidden null", "model.hidden", "got null", "a list"),
    ("--model.hidden [a]", "model.hidden", "got a", "a whole number"),
    ("--model.hidden [1.5]", "model.hidden", "got 1.5", "a whole number"),
    ("--model.hidden [true]", "model.hidden", "got true", "a whole number"),
    ("--model.hidden [[3]]", "model.hidden", "got [3]", "a whole number"),
    ("--model.hidden ''", "model.hidden", "got nothing", "a list"),
    ("--model.hidden [3,", "model.hidden", "a list"),
    ("--model.hidden 0x10", "model.hidden", "got 0x10", "a list"),
    ("--model.activation [relu]", "model.activation", "got ['relu']", "relu"),
    ("--model.dropout [0.5]", "model.dropout", "got [0.5]", "a number"),
    ("--data.batch_size true", "data.batch_size", "got true", "a whole number"),
    ("--data.batch_size [3]", "data.batch_size", "got [3]", "a whole number"),
    ("--model.hidden {a:1}", "model.hidden", "got {a:1}", "a list"),
    ("--model.class_weights [a]", "model.class_weights", "got ['a']", "a list of numbers or one of balanced or null"),
    ("--model.class_weights 3", "model.class_weights", "got 3", "a list of numbers or one of balanced or null"),
    ("--model.ns_steps 2.5", "model.ns_steps", "got 2.5", "a whole number or null"),
    ("--model.max_norm many", "model.max_norm", "got many", "a number or null"),
    ("--model.l1 null", "model.l1", "got null", "a number"),
    ("--model.decay_biases some", "model.decay_biases", "got some", "true or false or null"),
    ("--model.nesterov maybe", "model.nesterov", "got maybe", "true or false or null"),
    ("--data.batch_size 1.5", "data.batch_size", "got 1.5", "a whole number"),
    ("--data.batch_size nan", "data.batch_size", "got nan", "a whole number"),
    ("--data.batch_size null", "data.batch_size", "got null", "a whole number"),
    ("--data.shuffle 3", "data.shuffle", "got 3", "true or false"),
    ("--data.validation_size many", "data.validation_size", "got many", "a number"),
    ("--data.deform.elastic much", "data.deform.elastic", "got much", "a number"),
    ("--data.deform.cutout 1.5", "data.deform.cutout", "got 1.5", "a whole number"),
    ("--data.deform.class_rotation 3", "data.deform.class_rotation", "got 3", "values by name"),
    ("--data.deform.class_rotation {1:0.5}", "data.deform.class_rotation", "numbers by class name", "space"),
    ("--data.deform 3", "data.deform", "got 3", "options by name"),
    ("--data.deform.elastc 3", "data.deform.elastc", "did you mean data.deform.elastic?"),
    ("--data.mixup much", "data.mixup", "got much", "a number"),
    ("--patience 1.5", "patience", "got 1.5", "a whole number or null"),
    ("--seed_everything true", "seed_everything", "got true", "a whole number"),
    ("--trainer.max_epochs many", "trainer.max_epochs", "got many", "a whole number or null"),
    ("--trainer.logger foo", "trainer.logger", "got foo", "true or false", "a class path"),
    ("--trainer.callbacks foo", "trainer.callbacks", "got foo", "a list", "a class path"),
    ("--trainer.callbacks [foo]", "trainer.callbacks", "got ['foo']", "a list", "a class path"),
)
def test_types(options: str, expected: tuple[str, ...], error_of: Callable[..., str]) -> None:
    check(error_of(f"{FIT} {options}"), expected)


@says(
    ("--model.lr -1", "model.lr", "-1.0", ">= 0"),
    ("--model.lr .nan", "model.lr", "nan", "finite"),
    ("--model.lr .inf", "model.lr", "inf", "finite"),
    ("--model.lr 1e300", "model.lr", "1e+300", "at most"),
    ("--model.lr 1e400", "model.lr", "inf", "finite"),
    ("--model.lr=-1e-320", "model.lr", "-1e-320", ">= 0"),
    ("--model.hidden [4,0]", "model.hidden", "[4, 0]", "at least 1"),
    ("--model.hidden [-3]", "model.hidden", "[-3]", "at least 1"),
    ("--model.label_smoothing 1", "model.label_smoothing", "1.0", "[0, 1)"),
    ("--model.label_smoothing .nan", "model.label_smoothing", "nan", "[0, 1)"),
    ("--model.class_weights [1,-1]", "model.class_weights", "[1.0, -1.0]", "positive"),
    ("--model.class_weights [0,1]", "model.class_weights", "[0.0, 1.0]", "positive"),
    ("--model.class_weights [.inf,1]", "model.class_weights", "[inf, 1.0]", "finite"),
    ("--model.optimizer sgd --model.momentum -1", "model.momentum", "-1.0", "[0, 1)"),
    ("--model.optimizer sgd --model.momentum .nan", "model.momentum", "nan", "[0, 1)"),
    ("--model.optimizer sgd --model.momentum 0.9 --model.dampening -1", "model.dampening", "-1.0", "[0, 1)"),
    ("--model.beta1 1", "model.beta1", "1.0", "[0, 1)"),
    ("--model.beta2 -0.1", "model.beta2", "-0.1", "[0, 1)"),
    ("--model.beta2 .inf", "model.beta2", "inf", "[0, 1)"),
    ("--model.eps -1", "model.eps", "-1.0", ">= 0"),
    ("--model.eps .nan", "model.eps", "nan", "finite"),
    ("--model.weight_decay -1", "model.weight_decay", "-1.0", ">= 0"),
    ("--model.weight_decay .inf", "model.weight_decay", "inf", "finite"),
    ("--model.optimizer adam_norm --model.decay_biases false", "model.decay_biases", "got False", "adam_norm"),
    ("--model.optimizer nadam --model.momentum_decay -1", "model.momentum_decay", "-1.0", ">= 0"),
    ("--model.optimizer nadam --model.momentum_decay .inf", "model.momentum_decay", "inf", "finite"),
    ("--model.optimizer muon --model.momentum 1", "model.momentum", "1.0", "[0, 1)"),
    ("--model.optimizer muon --model.ns_steps 0", "model.ns_steps", "got 0", "from 1 to 99"),
    ("--model.optimizer muon --model.ns_steps 100", "model.ns_steps", "got 100", "from 1 to 99"),
    ("--model.l1 -1", "model.l1", "-1.0", "zero or more"),
    ("--model.l1 .nan", "model.l1", "nan", "finite"),
    ("--model.l1 .inf", "model.l1", "inf", "finite"),
    ("--model.max_norm 0", "model.max_norm", "0.0", "above zero"),
    ("--model.max_norm .inf", "model.max_norm", "inf", "finite"),
    ("--model.optimizer rmsprop --model.alpha 1", "model.alpha", "1.0", "[0, 1)"),
    ("--model.schedule step --model.gamma 0", "model.gamma", "0.0", "> 0"),
    ("--model.schedule step --model.gamma 1.5", "model.gamma", "1.5", "[0, 1]"),
    ("--model.schedule step --model.step_epochs 0", "model.step_epochs", "0.0", "above zero"),
    ("--model.schedule step --model.step_epochs .inf", "model.step_epochs", "inf", "finite"),
    ("--model.schedule cosine --model.final_factor -1", "model.final_factor", "-1.0", "[0, 1]"),
    ("--model.schedule one_cycle --model.pct_start 1.1", "model.pct_start", "1.1", "[0, 1]"),
    ("--model.warmup_epochs -1", "model.warmup_epochs", "-1.0", "zero or more"),
    ("--model.warmup_epochs .inf", "model.warmup_epochs", "inf", "finite"),
    ("--model.dropout 1", "model.dropout", "got 1.0", "[0, 1)"),
    ("--model.dropout -0.1", "model.dropout", "got -0.1", "[0, 1)"),
    ("--model.dropout .nan", "model.dropout", "got nan", "[0, 1)"),
    ("--model.input_dropout 1.5", "model.input_dropout", "got 1.5", "[0, 1)"),
    ("--model.norm batch --data.batch_size 1", "data.batch_size", "got 1", "at least 2 for model.norm batch"),
    ("--model.clip_norm 0", "model.clip_norm", "0.0", "above zero"),
    ("--model.vat -0.5", "model.vat", "got -0.5", "must be zero or more"),
    ("--model.vat .inf", "model.vat", "got inf", "finite"),
    ("--model.vat 1 --model.loss mse", "model.vat", "got 1.0", "loss mse"),
    ("--model.vat 1 --model.vat_eps 0", "model.vat_eps", "above zero", "got 0.0"),
    ("--model.vat 1 --model.vat_xi .nan", "model.vat_xi", "above zero", "got nan"),
    ("--model.vat 1 --model.vat_iterations 0", "model.vat_iterations", "at least 1", "got 0"),
    ("--model.vat_eps 2", "model.vat_eps", "got 2.0", "model.vat is 0"),
    ("--model.clip_norm .nan", "model.clip_norm", "nan", "above zero"),
    ("--model.clip_value -1", "model.clip_value", "-1.0", "above zero"),
    ("--model.clip_value .inf", "model.clip_value", "inf", "finite"),
    ("--data.batch_size 0", "data.batch_size", "got 0", "at least 1"),
    ("--data.batch_size -1", "data.batch_size", "got -1", "at least 1"),
    ("--data.validation_size 0", "data.validation_size", "got 0", "at least 1", "(0, 1)"),
    ("--data.validation_size -3", "data.validation_size", "got -3", "at least 1"),
    ("--data.validation_size 2.5", "data.validation_size", "got 2.5", "(0, 1)"),
    ("--data.deform.elastic -1", "data.deform.elastic", "got -1.0", "at least 0", "pixels"),
    ("--data.deform.elastic .nan", "data.deform.elastic", "got nan", "finite"),
    ("--data.deform.sigma 0", "data.deform.sigma", "got 0.0", "above zero"),
    ("--data.deform.rotation 200", "data.deform.rotation", "got 200.0", "from 0 to 180"),
    ("--data.deform.scale 1", "data.deform.scale", "got 1.0", "from 0 to 0.99"),
    ("--data.deform.flip 2", "data.deform.flip", "got 2.0", "from 0 to 1"),
    ("--data.deform.cutout -2", "data.deform.cutout", "got -2", "at least 0"),
    ("--data.deform.end_share 1.5", "data.deform.end_share", "got 1.5", "from 0 to 1"),
    ("--data.deform.class_rotation '{\"Bag\": -1}'", "data.deform.class_rotation", "got -1.0 for Bag", "at least 0"),
    (
        "--data.deform.rotation 9 --data.deform.class_rotation '{1: 0.5}'",
        "data.deform.class_rotation",
        "got 1, must be classes of the data set",
        "Bag",
    ),
    ("--data.mixup -1", "data.mixup", "got -1.0", "at least 0"),
    ("--data.mixup .inf", "data.mixup", "got inf", "finite"),
    ("--data.validation_size .nan", "data.validation_size", "got nan", "(0, 1)"),
    ("--data.validation_size .inf", "data.validation_size", "got inf", "(0, 1)"),
    ("--data.validation_size 40", "data.validation_size", "got 40", "1 to 39"),
    ("--patience 0", "patience", "got 0", "at least 1"),
    ("--seed_everything -1", "seed_everything", "got -1", "0 to 4294967295"),
    ("--seed_everything 4294967296", "seed_everything", "got 4294967296", "0 to 4294967295"),
)
def test_ranges(options: str, expected: tuple[str, ...], error_of: Callable[..., str]) -> None:
    check(error_of(f"{FIT} {options}"), expected)


@says(
    ("--model.momentum 0.9", "model.momentum", "0.9", "adam does not take it", "beta1"),
    ("--model.optimizer sgd --model.beta1 0.9", "model.beta1", "0.9", "sgd does not take it", "momentum"),
    ("--model.optimizer adam_norm --model.weight_decay 0.1", "model.weight_decay", "0.1", "adam_norm", "beta2"),
    ("--model.ns_steps 3", "model.ns_steps", "got 3", "adam does not take it"),
    ("--model.optimizer adamw --model.momentum_decay 0.1", "model.momentum_decay", "adamw does not take it"),
    ("--model.optimizer rmsprop --model.amsgrad true", "model.amsgrad", "rmsprop does not take it", "alpha"),
    ("--model.gamma 0.1", "model.gamma", "0.1", "constant does not take it", "none"),
    ("--model.schedule step --model.pct_start 0.3", "model.pct_start", "0.3", "step_epochs, gamma"),
    ("--model.schedule one_cycle --model.warmup_epochs 1", "model.warmup_epochs", "1.0", "one_cycle"),
    ("--model.loss mse --model.label_smoothing 0.1", "model.label_smoothing", "0.1", "mse does not take it"),
    ("--model.loss mse --model.class_weights [1]", "model.class_weights", "[1.0]", "mse does not take it"),
    ("--model.optimizer sgd --model.nesterov true", "model.nesterov", "momentum > 0", "momentum 0.0"),
    ("--data.validation per_batch", "data.shuffle", "got true", "must be false", "per_batch"),
    ("--data.validation per_batch --data.shuffle false --data.batch_size 1", "data.batch_size", "got 1,", "least 4"),
    ("--data.validation per_batch --data.shuffle false --data.batch_size 3", "data.batch_size", "got 3,", "least 4"),
    ("--test best --trainer.limit_val_batches 0", "test", "got best", "trainer.limit_val_batches"),
    ("--test best --trainer.enable_checkpointing false", "test", "got best", "trainer.enable_checkpointing"),
    ("--patience 3 --trainer.limit_val_batches 0", "patience", "got 3", "trainer.limit_val_batches"),
    ("--patience 3 --data.validation none", "patience", "got 3", "data.validation none"),
    ("--test best --data.validation none", "test", "got best", "data.validation none"),
    ("--data.test_deformations -1", "data.test_deformations", "got -1", "at least 0"),
    ("--data.test_deformations 4", "data.test_deformations", "got 4", "nothing on that moves pixels"),
    ("--data.test_deformations 4 --data.deform.noise 0.1", "data.test_deformations", "got 4", "moves pixels"),
    ("--model.averaging ema --trainer.precision bf16-true", "trainer.precision", "bf16-true", "bf16-mixed"),
    ("--model.averaging ema --model.ema_decay 1", "model.ema_decay", "got 1.0", "[0, 1)"),
    ("--model.averaging swa --model.swa_start 1", "model.swa_start", "got 1.0", "[0, 1)"),
    ("--model.ema_decay 0.9", "model.ema_decay", "got 0.9", "averaging none does not take it"),
    ("--model.class_weights [1,2]", "model.class_weights", "got 2 weights", "must be 10"),
    ("--model.class_weights []", "model.class_weights", "got 0 weights", "must be 10"),
    ("--model.hidden [1000000000000]", "model.hidden", "got [1000000000000]", "memory of"),
    (f"--model.hidden [{10**30}]", "model.hidden", f"got [{10**30}]", "memory of"),
    ("--data.root ''", "data.root", "got nothing", "existing folder"),
)
def test_combinations(options: str, expected: tuple[str, ...], error_of: Callable[..., str]) -> None:
    check(error_of(f"{FIT} {options}"), expected)


@says(
    ("--trainer.gradient_clip_val 0.5", "trainer.gradient_clip_val", "got 0.5", "model.clip_norm"),
    ("--trainer.accumulate_grad_batches 0", "trainer.accumulate_grad_batches", "got 0", "must be at least 1"),
    ("--trainer.accumulate_grad_batches {0:2}", "trainer.accumulate_grad_batches", "got {0:2}", "whole number"),
    ("--trainer.steps_per_execution 0", "error: trainer.steps_per_execution: got 0", "must be at least 1"),
    ("--trainer.steps_per_execution many", "trainer.steps_per_execution", "got many", "whole number or null"),
    ("--trainer.barebones true", "trainer.barebones", "true", "must be false"),
    ("--trainer.strategy foo", "trainer.strategy", "got foo", "auto", "ddp"),
    ("--trainer.strategy deepspeed", "trainer.strategy", "got deepspeed", "auto", "ddp"),
    ("--trainer.strategy fsdp", "trainer.strategy", "got fsdp", "auto", "ddp"),
    ("--trainer.accelerator foo", "accelerator='foo'", "auto", "cuda"),
    ("--trainer.float32_matmul_precision low", "trainer.float32_matmul_precision", "low", "highest, high"),
    ("--trainer.devices 0", "devices='0'"),
    ("--trainer.devices 100000", "trainer.devices", "got 100000", "must be at most", "processors"),
    ("--trainer.devices foo", "devices=foo", "int > 0"),
    ("--trainer.devices -5", "devices=-5", "int > 0"),
    ("--trainer.devices 1.5", "devices=1.5", "int > 0"),
    ("--trainer.devices []", "trainer", "devices"),
    ("--trainer.num_nodes 0", "num_nodes"),
    ("--trainer.num_nodes two", "trainer.num_nodes", "got two", "a whole number"),
    ("--trainer.min_epochs -5", "trainer.min_epochs", "got -5", "at least 1"),
    ("--trainer.min_steps 0", "trainer.min_steps", "got 0", "at least 1"),
    ("--trainer.fast_dev_run -1", "fast_dev_run", "-1"),
    ("--trainer.overfit_batches -1", "overfit_batches", "-1"),
    ("--trainer.logger '{class_path: os.system, init_args: {command: touch pwned}}'", "trainer.logger", "class path"),
    ("--trainer.callbacks '{class_path: os.system, init_args: {command: touch pwned}}'", "trainer.callbacks"),
    ("--trainer.plugins foo", "trainer.plugins", "got foo"),
    ("--trainer.precision transformer-engine", "trainer.precision", "transformer-engine", "32-true, 64-true"),
    ("--trainer.precision 16-true", "trainer.precision", "got 16-true", "32-true, 64-true, bf16-true, bf16-mixed"),
    ("--trainer.max_epochs -2", "max_epochs", "-2", "non-negative integer or -1"),
    ("--trainer.max_epochs 0", "trainer.max_epochs", "got 0", "trains nothing"),
    ("--trainer.max_steps -2", "max_steps", "-2", "non-negative integer or -1"),
    ("--trainer.max_steps 0", "trainer.max_steps", "got 0", "trains nothing"),
    ("--trainer.max_time soon", "max_time=soon", "DD:HH:MM:SS"),
    ("--trainer.log_every_n_steps 0", "trainer.log_every_n_steps", "got 0", "at least 1"),
    ("--trainer.log_every_n_steps -1", "trainer.log_every_n_steps", "got -1", "at least 1"),
    ("--trainer.check_val_every_n_epoch 0", "trainer.check_val_every_n_epoch", "got 0", "at least 1"),
    ("--trainer.val_check_interval 0", "trainer.val_check_interval", "got 0", "fraction"),
    ("--trainer.limit_train_batches 0", "trainer.limit_train_batches", "got 0", "trains nothing"),
    ("--trainer.limit_train_batches -1", "limit_train_batches", "-1", "[0.0, 1.0] or an int"),
    ("--trainer.limit_val_batches 1.5", "limit_val_batches", "1.5", "[0.0, 1.0] or an int"),
    ("--trainer.limit_test_batches -1", "limit_test_batches", "-1", "[0.0, 1.0] or an int"),
    ("--trainer.profiler foo", "profiler", "foo", "simple"),
    ("--trainer.default_root_dir data/file", "trainer.default_root_dir", "data/file", "cannot be made"),
    ("--trainer.default_root_dir /proc/runs", "trainer.default_root_dir", "/proc/runs", "cannot be made"),
)
def test_trainer_options(options: str, expected: tuple[str, ...], here: Path, error_of: Callable[..., str]) -> None:
    (here / "data" / "file").write_text("a file")
    check(error_of(f"{FIT} {options}"), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_that_is_not_there(error_of: Callable[..., str]) -> None:
    check(error_of(f"{FIT} --trainer.accelerator gpu"), ("accelerator=gpu", "No supported gpu backend found"))


@says(
    ("--model.schedule cosine --model.warmup_epochs 20", "model.warmup_epochs", "got 20.0", "no step"),
    ("--trainer.max_epochs -1 --trainer.max_time 00:00:00:30 --model.schedule cosine", "cosine", "trainer.max_epochs"),
    ("--trainer.val_check_interval 100", "trainer.val_check_interval", "100", "batches (2)"),
    (
        "--model.optimizer sgd --model.activation identity --model.lr 1e30",
        *("model.lr", "step 2 is not finite", "layer 1 overflows", "learning rate that is too large, 1e+30"),
    ),
    ("--trainer.check_val_every_n_epoch 2 --test best", "test: got best", "before its first validation"),
)
def test_what_only_the_run_shows(
    options: str, expected: tuple[str, ...], error_of: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    check(error_of(f"{FIT} {options}", leaves_a_run=True), expected)


CONFIGS = {
    "empty": (b"", ("empty.yaml is empty", "options by name")),
    "only a comment": (b"# later\n", ("only a comment.yaml is empty",)),
    "a plain word": (b"hello\n", ("a plain word.yaml holds 'hello'", "options by name")),
    "a list": (b"- 1\n- 2\n", ("a list.yaml holds [1, 2]", "options by name")),
    "broken": (b"model: [1,\n  foo: }\n", ("broken.yaml is not a readable YAML file", "line 2")),
    "binary": (bytes(range(256)), ("binary.yaml is not a readable YAML file", "0x80")),
    "code": (b'model: !!python/object/apply:os.system ["touch pwned"]\n', ("code.yaml is not a readable YAML file",)),
    "a misspelt option": (b"model:\n  hiden: [3]\n", ("model.hiden", "did you mean model.hidden?")),
    "a misspelt group": (b"modle:\n  hidden: [3]\n", ("modle.hidden", "did you mean model.hidden?")),
    "an unknown option": (b"nonsense: 3\n", ("nonsense", "no such option")),
    "a wrong type": (b"model:\n  lr: fast\n", ("model.lr", "got fast", "a number")),
    "not a number": (b"model:\n  lr: .nan\n", ("model.lr", "nan", "finite")),
    "a group that is none": (b"model: 3\n", ("model: got 3", "options by name")),
    "a list for a group": (b"trainer: [1]\n", ("trainer: got [1]", "options by name")),
    "a word for a group": (b"data: mnist\n", ("data: got mnist", "options by name")),
    "a number for a name": (b"1: 2\n", ("the key 1", "options by name")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config(name: str, here: Path, error_of: Callable[..., str]) -> None:
    held, expected = CONFIGS[name]
    (here / f"{name}.yaml").write_bytes(held)
    check(error_of(f"{FIT} --config '{name}.yaml'"), expected)


@pytest.mark.parametrize("option", ["--config none.yaml", "--config=none.yaml", "-c none.yaml", "--config data"])
def test_config_that_is_no_file(option: str, error_of: Callable[..., str]) -> None:
    name = "data" if "data" in option else "none.yaml"
    check(error_of(f"{FIT} {option}"), ("--config", f"there is no file '{name}'", "relu.yaml"))


FILES = {
    "truncated images": ({"train_images": idx(np.zeros((40, 2, 3)))[:-7]}, ("training files", "cannot be read")),
    "truncated header": ({"test_images": idx(np.zeros((10, 2, 3)))[:9]}, ("test files", "cannot be read")),
    "wrong magic": ({"train_labels": b"PK\3\4" + bytes(60)}, ("training files", "cannot be read")),
    "empty": ({"train_labels": b""}, ("training files", "cannot be read")),
    "label out of range": ({"train_labels": idx(np.full(40, 11))}, ("sample 0", "label 11", "0 … 9")),
    "fewer labels than images": ({"train_labels": idx(np.arange(39) % 10)}, ("40 images", "39 labels")),
    "no images": (
        {"test_images": idx(np.zeros((0, 2, 3))), "test_labels": idx(np.zeros(0))},
        ("test files", "cannot be read"),
    ),
    "another shape in test": ({"test_images": idx(np.zeros((10, 3, 3)))}, ("different shapes", "(2, 3)", "(3, 3)")),
}


@pytest.mark.parametrize("name", FILES)
def test_data_files(name: str, here: Path, write_fashion: Callable[..., None], error_of: Callable[..., str]) -> None:
    files, expected = FILES[name]
    write_fashion(here / "data", **files)
    check(error_of(FIT), ("data.root", "FashionMNIST", *expected))


def test_damaged_mnist(here: Path, error_of: Callable[..., str]) -> None:
    path = here / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.parent.mkdir(parents=True)
    path.write_bytes(idx(np.zeros((5, 28, 28))))
    check(error_of(f"{FIT} --data.dataset mnist"), ("data.root", path.name, "damaged", "delete it"))


@says(
    ("--data.root none", "data.root", "got none", "an existing folder"),
    ("--data.root data/FashionMNIST/raw/t10k-labels-idx1-ubyte", "data.root", "t10k-labels", "an existing folder"),
    ("--data.dataset kmnist", "data.dataset", "kmnist is not in", "KMNIST/raw", "no network", "by hand"),
)
def test_data_root(options: str, expected: tuple[str, ...], error_of: Callable[..., str]) -> None:
    check(error_of(f"{FIT} {options}"), expected)


TABLE = "a,b,y\n" + "".join(f"{k},{'uv'[k % 2]},{'no' if k % 2 else 'yes'}\n" for k in range(30))
FIT_OWN = FIT.partition(" --data.dataset")[0] + " --data.batch_size 5"
CSV = f"{FIT_OWN} --data.dataset csv --data.root it.csv --data.label y"


@pytest.mark.parametrize(
    ("old", "new", "options", "expected"),
    [
        ("\n7,v", "\nx,v", "", ("it.csv, line 9, column 'a'", "got 'x'", "must be a number")),
        ("\n7,v", "\ninf,v", "", ("it.csv, line 9, column 'a'", "got 'inf'", "finite")),
        ("\n7,v", "\n,v", "", ("it.csv, line 9, column 'a'", "missing", "data.missing")),
        ("7,v", "7,", "", ("it.csv, line 9, column 'b'", "missing")),
        ("7,v,no", "7,v,", "", ("it.csv, line 9, column 'y'", "label is missing")),
        ("7,v,no", "7,v", "", ("it.csv, line 9", "2 cells, must be 3")),
        ("a,b,y", "a,a,y", "", ("it.csv, line 1", "two columns are named 'a'")),
        ("no", "yes", "", ("it.csv", "one class only", "yes")),
        ("", "", "--data.label z", ("data.label: got z", "a, b, y")),
        ("", "", "--data.ignore [z]", ("data.ignore: got z", "columns of it.csv")),
        ("", "", "--data.ignore [a,b]", ("it.csv has no column besides the label",)),
        ("", "", "--data.root none.csv", ("data.root: got none.csv", "no such file")),
        ("", "", "--data.test_path none.csv", ("data.test_path: got none.csv", "no such file")),
        ("", "", "--data.test_size 0", ("data.test_size: got 0", "at least 1")),
        ("", "", "--data.test_size 30", ("data.test_size: got 30", "at most 28")),
        ("", "", "--data.test_seed -1", ("data.test_seed: got -1", "0 to 4294967295")),
        ("", "", "--data.image_size [2,2]", ("data.image_size: got [2, 2]", "csv does not take it")),
        ("", "", "--data.missing guess", ("data.missing: got guess", "error, mean")),
        ("", "", "--data.validation_size 24", ("data.validation_size: got 24", "from 1 to 23")),
        ("", "", "--model.class_weights balanced --model.loss mse", ("model.class_weights: got balanced", "mse")),
        ("", "", "--model.class_weights even", ("model.class_weights: got even",)),
        ("", "", "--data.deform.rotation 9", ("data.deform", "no images")),
    ],
)
def test_table(
    old: str, new: str, options: str, expected: tuple[str, ...], here: Path, error_of: Callable[..., str]
) -> None:
    (here / "it.csv").write_text(TABLE.replace(old, new) if old else TABLE)
    check(error_of(f"{CSV} {options}"), expected)


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("a,b,y\n1,u,maybe\n", ("test.csv, line 2", "'maybe'", "no, yes")),
        ("a,b,y\n1,w,no\n", ("test.csv, line 2, column 'b'", "'w'", "data.unknown: zero")),
        ("a,y\n1,no\n", ("test.csv has no column 'b'",)),
        ("a,b,y\n", ("test.csv", "no rows")),
    ],
)
def test_test_table(test: str, expected: tuple[str, ...], here: Path, error_of: Callable[..., str]) -> None:
    (here / "it.csv").write_text(TABLE)
    (here / "test.csv").write_text(test)
    check(error_of(f"{CSV} --data.test_path test.csv"), expected)


ARRAYS = {"x": np.arange(60.0).reshape(20, 3), "y": np.arange(20) % 2}
SPOILT = ARRAYS["x"].copy()
SPOILT[4, 2] = np.nan


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": SPOILT}, ("it.npz, x, row 4, column 2", "nan", "finite")),
        ({"y": np.arange(19) % 2}, ("it.npz, x", "20 samples", "19 labels")),
        ({"y": np.zeros(20)}, ("one class only",)),
        ({"y": np.arange(20)}, ("data.test_size",)),
        ({"y": np.full(20, np.nan)}, ("it.npz, y, row 0", "nan")),
        ({"x": np.zeros(20)}, ("it.npz, x", "(20,)", "(N, D)")),
        ({"x": np.zeros((20, 2, 2, 4))}, ("it.npz, x", "(20, 2, 2, 4)", "(N, H, W, 3)")),
        ({"x": np.array([["a"]] * 20)}, ("it.npz, x", "must be numbers")),
        ({"x": np.array([[{}]] * 20)}, ("it.npz, x", "Python objects")),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0)}, ("it.npz, x", "holds no samples")),
        ({"x": None}, ("it.npz", "no array x_train")),
    ],
    ids=lambda value: "",
)
def test_arrays(
    arrays: dict[str, np.ndarray], expected: tuple[str, ...], here: Path, error_of: Callable[..., str]
) -> None:
    held = {name: array for name, array in {**ARRAYS, **arrays}.items() if array is not None}
    np.savez(here / "it.npz", **held)
    check(error_of(f"{FIT_OWN} --data.dataset arrays --data.root it.npz"), expected)


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (b"", ("it.npz", "cannot be read")),
        (b"PK\3\4 no archive", ("it.npz", "cannot be read")),
        (b"\x80\4N.", ("it.npz",)),
    ],
    ids=["empty", "broken", "pickle"],
)
def test_arrays_that_are_none(
    contents: bytes, expected: tuple[str, ...], here: Path, error_of: Callable[..., str]
) -> None:
    (here / "it.npz").write_bytes(contents)
    check(error_of(f"{FIT_OWN} --data.dataset arrays --data.root it.npz"), expected)


@pytest.mark.parametrize(
    ("sizes", "options", "expected"),
    [
        ({"a/1": 3, "a/2": 3, "b/1": 4}, "", ("b/1.png", "4 × 4", "data.image_size")),
        ({"a/1": 3, "a/2": 3}, "", ("1 samples to train",)),
        ({f"a/{k}": 3 for k in range(9)}, "", ("pictures", "one class only")),
        ({"a/1": 0, "b/1": 3}, "", ("a/1.png", "empty", "data.skip_unreadable")),
        ({"a/1": 0, "b/1": 3}, "--data.skip_unreadable true", ("pictures/a", "no picture that can be read")),
        ({"a/1": 3, "b/1": 3}, "--data.image_size [0,3]", ("data.image_size", "[0, 3]", "at least 1")),
        ({}, "", ("data.root: pictures", "no folders")),
    ],
    ids=["two sizes", "too few", "one class", "empty file", "empty class", "no size", "nothing"],
)
def test_pictures(
    sizes: dict[str, int], options: str, expected: tuple[str, ...], here: Path, error_of: Callable[..., str]
) -> None:
    (here / "pictures").mkdir()
    for name, size in sizes.items():
        path = here / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((size, size), "u1")).save(path) if size else path.touch()
    check(error_of(f"{FIT_OWN} --data.dataset image_folder --data.root pictures {options}"), expected)


def test_own_files_without_a_place(error_of: Callable[..., str]) -> None:
    check(error_of(f"{FIT_OWN} --data.dataset csv --data.label y"), ("data.root: got null", "csv"))


class Code:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


class Checkpoint(NamedTuple):
    make: Callable[[Path, bytes], object]
    expected: tuple[str, ...]


CHECKPOINTS = {
    "empty": Checkpoint(lambda path, _: path.write_bytes(b""), ("not a readable checkpoint",)),
    "random bytes": Checkpoint(
        lambda path, _: path.write_bytes(np.random.default_rng(0).bytes(3000)), ("not a readable checkpoint",)
    ),
    "truncated": Checkpoint(lambda path, whole: path.write_bytes(whole[:-200]), ("not a readable checkpoint",)),
    "foreign": Checkpoint(
        lambda path, _: torch.save({"w": torch.ones(2)}, path), ("not a checkpoint of this", "state_dict")
    ),
    "a tensor": Checkpoint(lambda path, _: torch.save(torch.ones(2), path), ("not a checkpoint of this trainer",)),
    "a pickle with code": Checkpoint(
        lambda path, _: path.write_bytes(pickle.dumps(Code(), protocol=2)), ("carries code, which is never run",)
    ),
    "torch's file with code": Checkpoint(
        lambda path, _: torch.save({"state_dict": Code()}, path), ("carries code, which is never run",)
    ),
}


@pytest.mark.parametrize(
    ("name", "command"), [*((name, "fit") for name in CHECKPOINTS), ("torch's file with code", "test")]
)
def test_checkpoint(name: str, command: str, here: Path, trained: bytes, error_of: Callable[..., str]) -> None:
    case = CHECKPOINTS[name]
    case.make(here / "it.ckpt", trained)
    check(error_of(f"{FIT.replace('fit', command, 1)} --ckpt_path it.ckpt"), ("--ckpt_path", "it.ckpt", *case.expected))


def test_checkpoint_that_is_no_file(error_of: Callable[..., str]) -> None:
    check(error_of(f"{FIT} --ckpt_path none.ckpt"), ("--ckpt_path", "there is no file none.ckpt"))


def test_folder_without_a_checkpoint(error_of: Callable[..., str]) -> None:
    check(error_of(f"{FIT} --ckpt_path data"), ("--ckpt_path: got data", "no last.ckpt nor best.ckpt in data"))


@says(
    ("--model.hidden [5]", "model.hidden", "got [5]", "it.ckpt", "[4]"),
    ("--model.optimizer sgd", "model.optimizer", "got sgd", "it.ckpt", "adam"),
    ("--model.norm layer", "model.norm", "got layer", "it.ckpt", "none"),
)
def test_checkpoint_of_another_network(
    options: str, expected: tuple[str, ...], here: Path, trained: bytes, error_of: Callable[..., str]
) -> None:
    (here / "it.ckpt").write_bytes(trained)
    check(error_of(f"{FIT} --ckpt_path it.ckpt {options}"), expected)


@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_checkpoint_of_other_images(
    command: str, here: Path, write_fashion: Callable[..., None], trained: bytes, error_of: Callable[..., str]
) -> None:
    (here / "it.ckpt").write_bytes(trained)
    write_fashion(here / "data", train_images=idx(np.zeros((40, 3, 3))), test_images=idx(np.zeros((10, 3, 3))))
    line = f"{FIT.replace('fit', command, 1)} --ckpt_path it.ckpt"
    check(error_of(line), ("--ckpt_path", "[6, 4, 10]", "[9, 4, 10]"))


@says(
    ("--format torch --output out", "--ckpt_path", "required"),
    ("--ckpt_path it.ckpt --output out", "--format", "required"),
    ("--ckpt_path it.ckpt --format torch", "--output", "required"),
    ("--ckpt_path it.ckpt --format torch --output", "--output", "expected one argument"),
    ("--ckpt_path it.ckpt --format pickle --output out", "--format", "pickle", "torch_export", "onnx", "safetensors"),
    ("--ckpt_path it.ckpt --format onnx --output out --input int8", "--input", "int8", "uint8", "float32"),
    ("--ckpt_path it.ckpt --format torch --output out --input uint8", "--input", "torch holds weights alone"),
    ("--ckpt_path it.ckpt --format torch --output out stray", "stray"),
    ("--ckpt_path gone.ckpt --format torch --output out", "--ckpt_path", "there is no file gone.ckpt"),
    ("--ckpt_path data --format torch --output out", "--ckpt_path", "got data", "best.ckpt"),
    ("--ckpt_path cut.ckpt --format torch --output out", "--ckpt_path", "cut.ckpt", "damaged"),
    ("--ckpt_path empty.ckpt --format torch --output out", "--ckpt_path", "empty.ckpt", "damaged"),
    ("--ckpt_path other.ckpt --format torch --output out", "--ckpt_path", "other.ckpt", "has no state_dict"),
    ("--ckpt_path it.ckpt --format torch --output gone/out", "--output", "there is no folder gone"),
    ("--ckpt_path it.ckpt --format torch --output it.ckpt/out", "--output", "there is no folder it.ckpt"),
    ("--ckpt_path it.ckpt --format torch --output data", "--output", "data is a folder"),
    ("--ckpt_path it.ckpt --format torch --output ''", "--output", "is a folder"),
    ("--ckpt_path it.ckpt --format torch --output /dev/null", "--output", "/dev/null is no file"),
    ("--ckpt_path it.ckpt --format torch --output it.ckpt", "--output", "the checkpoint itself"),
    (f"--ckpt_path it.ckpt --format torch --output {'o' * 300}", "--output", "File name too long"),
)
def test_export(
    options: str,
    expected: tuple[str, ...],
    here: Path,
    contents_of: Callable[[Path], dict[str, bytes]],
    trained: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "it.ckpt").write_bytes(trained)
    (here / "cut.ckpt").write_bytes(trained[: len(trained) // 2])
    (here / "empty.ckpt").touch()
    torch.save({"epoch": 1}, here / "other.ckpt")
    before = contents_of(here)
    with pytest.raises(SystemExit) as caught:
        start.main(["export", *shlex.split(options)])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert (captured.out, line[:7]) == ("", "error: ")
    check(line, expected)
    assert contents_of(here) == before


@says(
    ("--ckpt_path gone.ckpt", "--ckpt_path", "there is no file gone.ckpt"),
    ("--ckpt_path data", "--ckpt_path", "got data", "best.ckpt"),
    ("--ckpt_path cut.ckpt", "--ckpt_path", "cut.ckpt", "damaged"),
    ("--ckpt_path it.ckpt --port 65536", "--port", "got 65536", "0 … 65535"),
    ("--ckpt_path it.ckpt --port TAKEN", "--port", "TAKEN is in use", "0 for a free one"),
    ("--ckpt_path it.ckpt stray", "stray"),
)
def test_draw(
    options: str, expected: tuple[str, ...], here: Path, trained: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "it.ckpt").write_bytes(trained)
    (here / "cut.ckpt").write_bytes(trained[: len(trained) // 2])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit) as caught:
            start.main(["draw", *shlex.split(options.replace("TAKEN", port))])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert (captured.out, line[:7]) == ("", "error: ")
    check(line, tuple(part.replace("TAKEN", port) for part in expected))


@says(
    ("my.yaml --data.dataset csv", "data.root", "got null", "csv"),
    ("my.yaml --data.dataset csv --data.root gone.csv --data.label a", "data.root", "gone.csv", "no such file"),
    ("my.yaml --data.dataset csv --data.root table.csv --data.label b", "data.label", "got b", "table.csv: length, a"),
    ("my.yaml --data.dataset csv --data.root table.csv --data.label a", "table.csv, line 3", "'length'", "'long'"),
    ("my.yaml --data.dataset arrays --data.root table.csv", "table.csv", "NumPy"),
    ("my.yaml --data.dataset image_folder --data.root data", "FashionMNIST", "no picture"),
    ("my.yaml --model.hidden [3]", "model.hidden", "no such option"),
    ("data --data.dataset mnist --force", "got data", "must be a file"),
    ("table.csv --data.dataset mnist", "table.csv is there already", "--force"),
)
def test_init(options: str, expected: tuple[str, ...], here: Path, error_of: Callable[..., str]) -> None:
    (here / "table.csv").write_text("length,a\n1,x\nlong,y\n3,x\n4,y\n5,x\n6,y\n")
    check(error_of(f"init {options}"), expected)


@says(
    ("--input a.png", "predict", "required: --ckpt_path"),
    ("--ckpt_path it.ckpt", "predict", "required: --input"),
    ("--ckpt_path it.ckpt --input a.png --invert black", "--invert", "'black'", "auto", "always", "never"),
    ("--ckpt_path it.ckpt --input a.png --center 1", "--center", "'1'", "true", "false"),
    ("--ckpt_path it.ckpt --input a.png --center true", "--center", "got true", "it.ckpt", "2 × 3 pixels"),
    ("--ckpt_path it.ckpt --input a.png --top three", "--top", "'three'"),
    ("--ckpt_path it.ckpt --input a.png --top -1", "--top", "got -1", "at least 1"),
    ("--ckpt_path gone.ckpt --input a.png", "--ckpt_path", "there is no file gone.ckpt"),
    ("--ckpt_path best --input a.png", "--ckpt_path", "got best", "lightning_logs"),
    ("--ckpt_path data --input a.png", "--ckpt_path", "got data", "best.ckpt"),
    ("--ckpt_path cut.ckpt --input a.png", "--ckpt_path", "cut.ckpt", "damaged"),
    ("--ckpt_path code.ckpt --input a.png", "--ckpt_path", "code.ckpt", "carries code, which is never run"),
    ("--ckpt_path it.ckpt --input gone.png", "--input", "there is no file gone.png"),
    ("--ckpt_path it.ckpt --input ''", "--input", "an empty name"),
    ("--ckpt_path it.ckpt --input data", "--input", "no picture in the folder data"),
    ("--ckpt_path it.ckpt --input a.png text.png", "text.png", "no picture", "--skip_unreadable"),
    ("--ckpt_path it.ckpt --input a.png empty.png text.png", "2 pictures", "empty.png: the file is empty", "text.png"),
    ("--ckpt_path it.ckpt --input empty.png --skip_unreadable", "--input", "none of the pictures can be read"),
    ("--ckpt_path it.ckpt --input a.png table.csv", "table.csv", "cannot be used", "grey pictures of 2 × 3 pixels"),
    ("--ckpt_path it.ckpt --input a.png wide.npy", "wide.npy", "(3, 7)", "(N, 6) or (N, 2, 3)"),
    ("--ckpt_path it.ckpt --input a.png nan.npy", "nan.npy, row 1, column 4", "got nan"),
    ("--ckpt_path it.ckpt --input a.png --output gone/out.csv", "--output", "gone/out.csv", "existing folder"),
    ("--ckpt_path it.ckpt --input a.png --output data", "--output", "got data", "must be a file"),
    ("--ckpt_path it.ckpt --input a.png --output /dev/null", "--output", "/dev/null", "must be a file"),
    ("--ckpt_path it.ckpt --input a.png --output ''", "--output", "must be a file"),
    (f"--ckpt_path it.ckpt --input a.png --output {'o' * 300}", "--output", "File name too long"),
    ("--ckpt_path it.ckpt --input a.png --output it.ckpt", "--output", "it.ckpt", "the checkpoint"),
    ("--ckpt_path it.ckpt --input a.png --contact_sheet a.png", "--contact_sheet", "a.png", "an input"),
    ("--ckpt_path it.ckpt --input a.png --output o --contact_sheet o", "--contact_sheet: o", "written already"),
    ("--ckpt_path it.ckpt --input a.png --contact_sheet gone/s.png", "--contact_sheet", "gone/s.png"),
    ("--ckpt_path it.ckpt --input a.png stray --outptu o", "--outptu"),
)
def test_predict(
    options: str, expected: tuple[str, ...], here: Path, trained: bytes, error_of: Callable[..., str]
) -> None:
    (here / "it.ckpt").write_bytes(trained)
    (here / "cut.ckpt").write_bytes(trained[: len(trained) // 2])
    torch.save({"state_dict": Code()}, here / "code.ckpt")
    Image.new("L", (3, 2), 7).save(here / "a.png")
    (here / "empty.png").touch()
    (here / "text.png").write_text("text")
    (here / "table.csv").write_text("length,a\n1,x\n")
    np.save(here / "wide.npy", np.zeros((3, 7)))
    np.save(here / "nan.npy", np.array([[0.0] * 6, [0.0] * 4 + [np.nan, 0.0]]))
    check(error_of(f"predict {options}"), expected)
    assert not (here / "pwned").exists()


def test_export_of_a_training(here: Path, trained: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """So that the rows above fail for their own reason alone."""
    (here / "it.ckpt").write_bytes(trained)
    start.main(shlex.split("export --ckpt_path it.ckpt --format torch --output out"))
    assert capsys.readouterr().out.startswith("out: logits differ from the network's by at most ")
    assert torch.load(here / "out")["2.bias"].shape == (10,)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("fit --model.hiden [3]", "did you mean model.hidden?", marks=pytest.mark.slow),
        ("fit --model.lr -1", "model.lr must be a finite number"),
    ],
    ids=["the parser's", "ours"],
)
def test_process(line: str, expected: str, here: Path) -> None:
    """Exit status and output of a real process."""
    done = subprocess.run([sys.executable, TRAIN, *shlex.split(line)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    errors = [text for text in done.stderr.splitlines() if text != "Seed set to 0"]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert expected in errors[0]
