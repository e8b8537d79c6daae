"""The command line: LightningCLI with this project's defaults, its config folder and one-line errors."""

import errno
import inspect
import math
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mlp_lightning.cli.config_files import CONFIG_FOLDER, find_configs
from mlp_lightning.cli.failure import fail, system_error
from mlp_lightning.cli.light import answer
from mlp_lightning.cli.overview import COMMANDS, DESCRIPTION
from mlp_lightning.cli.trainer import CommandTrainer
from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.data.module import DataModule
from mlp_lightning.data.sources.options import OPTIONS_OF, SHARED
from mlp_lightning.data.sources.own import OWN
from mlp_lightning.data.splitting.split_options import keep_split
from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.engines.native.denormals import no_denormals
from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import find_checkpoint, read_checkpoint
from mlp_lightning.invocation import program
from mlp_lightning.memory import out_of_memory
from mlp_lightning.messages import plain_words, reason_of_class
from mlp_lightning.training.callback_options import as_list
from mlp_lightning.training.callbacks.early_stopping import Patience
from mlp_lightning.training.callbacks.health import Health
from mlp_lightning.training.callbacks.histograms import Histograms
from mlp_lightning.training.callbacks.interruption import Interruption, Stopped, stopping_signals, with_checkpoint
from mlp_lightning.training.callbacks.pictures import Pictures
from mlp_lightning.training.callbacks.progress_bar import GroupProgressBar
from mlp_lightning.training.callbacks.report import Report
from mlp_lightning.training.callbacks.saved_config import SaveWholeConfig
from mlp_lightning.training.distributed.strategy import (
    START_METHODS,
    check_strategy,
    is_lost_process,
    register_strategies,
)
from mlp_lightning.training.evaluation import Weights
from mlp_lightning.training.judged_weights import JudgedWeights
from mlp_lightning.training.memory_needed import Setting, check_memory
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.process.freed_memory import keep_freed_memory
from mlp_lightning.training.process.no_profiler import NoProfiler
from mlp_lightning.training.process.quiet import quiet_event_writer, quiet_lightning
from mlp_lightning.training.process.settled_objects import settled_objects
from mlp_lightning.training.runs.checkpoint import AtomicCheckpointIO, checkpoint_callbacks
from mlp_lightning.training.runs.newest import Origin, changed_options, newest_checkpoint, note_start, origin_of
from mlp_lightning.training.runs.run_folder import is_first, log_folder, run_folder, tell, tensorboard_logger
from mlp_lightning.training.runs.run_logger import EventsOfCheckpoints, RunLogger, make_logger
from mlp_lightning.training.trained_options import check_trained
from mlp_lightning.training.trainer_options import check_trainer_options, given_options

REFRESH_EVERY_N_STEPS = 50
HEALTH_EVERY_N_RECORDS = 4
# What --ckpt_path understands beside files.
WORDS = ("best", "last", "auto")
# A full disk, a spent quota, a limit of a file's size.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Commands that look at a step and leave no run behind.
LOOKING = ("check", "explain")
# Commands that say how good trained weights are.
EVALUATING = ("validate", "test")
# Options of the user's own files.
READING = {*SHARED, *(name for names in OPTIONS_OF.values() for name in names)}


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print ``error: …`` and exit with status 2."""
        signatures = {"model": MLPModule, "data": DataModule, "trainer": pl.Trainer}
        options = ["config", "ckpt_path", "seed_everything", "patience", "test"]
        options += [
            f"{group}.{name}" for group, kind in signatures.items() for name in inspect.signature(kind).parameters
        ]
        options += [f"data.deform.{option.name}" for option in fields(DeformOptions)]
        fail(plain_words(message, options))


class CLI(LightningCLI):
    """``fit``, ``validate``, ``test``, ``check`` and ``explain`` on MLPModule and DataModule."""

    def __init__(self, args: ArgsType = None) -> None:
        self._arguments = sys.argv[1:] if args is None else list(args)
        # What the checkpoint, if one is given, knows of its data, and how wide its layers are.
        self._description: dict[str, Any] | None = None
        self._weights: Weights | None = None
        self._sizes: list[int] | None = None
        # The run that a fit carries on.
        self._origin: Origin | None = None
        super().__init__(
            MLPModule,
            DataModule,
            args=args,
            parser_class=OneLineParser,
            parser_kwargs={
                "prog": program(),
                "description": DESCRIPTION,
                **{name: {"description": COMMANDS[name]} for name in self.subcommands()},
            },
            trainer_class=CommandTrainer,
            auto_configure_optimizers=False,
            # Without a logger the config goes to the root folder, where that of an earlier run may be.
            save_config_callback=SaveWholeConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"num_sanity_val_steps": 0, "enable_model_summary": False, "max_epochs": 15},
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The Trainer's methods that are commands, or the one that is given, with the arguments that are no options."""
        hidden = {"model", "datamodule", "weights_only"}
        commands = {
            "fit": hidden | {"train_dataloaders", "val_dataloaders"},
            "validate": hidden | {"dataloaders", "verbose"},
            "test": hidden | {"dataloaders", "verbose"},
            "check": hidden,
            "explain": hidden,
        }
        given = self._arguments[0] if self._arguments else None
        # A parser takes long to build: nobody waits for those of the other commands.
        return {given: commands[given]} if given in commands else commands

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Replace Lightning's seed option, which may also be true, by a plain number."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of initial weights, validation split and shuffling."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to none of trainer, model and data."""
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")
        parser.add_argument(
            "--patience",
            type=int | None,
            default=None,
            help="Stop early when val/loss has not improved for so many validations; null for never.",
        )
        parser.add_argument(
            "--test",
            type=Literal["best", "last", "never"] | None,
            default=None,
            help="Which weights fit tests at its end, and a run's folder stands for: those of best validation accuracy "
            "(best.ckpt) or the last ones; never for no test. Null for best where there is a best.ckpt, else last.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, after the names of configs have become paths."""
        arguments, self._run_name = find_configs(self._arguments, CONFIG_FOLDER)
        self.config = parser.parse_args(arguments)

    def _parse_ckpt_path(self) -> None:
        """Look into the checkpoint before anything costs time; evaluate with the options it was trained with."""
        options = self.config[self.config.subcommand]
        if options.get("ckpt_path") is None:
            if self.config.subcommand in EVALUATING:
                raise UserError(
                    f"--ckpt_path: got nothing, but {self.config.subcommand} needs trained weights; "
                    "give a checkpoint, a run's folder, best or last"
                )
            return
        given = str(options.ckpt_path)
        checkpoint = self._take_checkpoint(options)
        if checkpoint is None:
            return
        check_trained(checkpoint, options.ckpt_path)
        # Checkpoints from before there were averages and norms say nothing of them.
        trained = {"averaging": "none", "norm": "none", **checkpoint["hyper_parameters"]}
        if self.config.subcommand == "fit":
            for name in ("hidden", "optimizer", "averaging", "norm"):
                if options.model[name] != trained.get(name):
                    raise UserError(
                        f"model.{name}: got {options.model[name]}, but {options.ckpt_path} "
                        f"can only resume with its own, {trained.get(name)}"
                    )
            data = checkpoint.get("datamodule_hyper_parameters", {})
            self._keep_split(options, checkpoint)
            changes = [*changed_options("model", options.model, trained), *changed_options("data", options.data, data)]
            tell(*changes)
            runs = log_folder(options.trainer.default_root_dir) / self._run_name
            self._origin = origin_of(Path(options.ckpt_path), checkpoint, runs, changed=bool(changes))
        else:
            for name, value in trained.items():
                if name in options.model:
                    options.model[name] = value
            # Data options may be given anew, say another data set; those left alone are the checkpoint's. Another seed
            # would validate on samples that were trained on.
            defaults = self._parser(self.config.subcommand).get_defaults().data
            data = checkpoint.get("datamodule_hyper_parameters", {})
            if options.data.dataset not in (defaults.dataset, data.get("dataset")):
                # How another kind of files was read says nothing of these.
                data = {name: value for name, value in data.items() if name not in READING}
            _take_over(options.data, defaults, data)
            self._keep_split(options, checkpoint)
        if given in WORDS or os.path.isdir(os.path.expanduser(given)):
            tell(f"checkpoint: {options.ckpt_path}, step {checkpoint['global_step']}")
        self._description, self._sizes = checkpoint.get("data"), checkpoint["sizes"]
        self._weights = Weights.of_checkpoint(Path(options.ckpt_path), checkpoint)
        if options.data.dataset in OWN and self._description is None:
            raise UserError(
                f"--ckpt_path: {options.ckpt_path} is of an older version that did not keep how its data were read"
            )

    def _keep_split(self, options: Namespace, checkpoint: dict[str, Any]) -> None:
        trained = checkpoint.get("datamodule_hyper_parameters", {})
        if options.data.dataset == trained.get("dataset"):
            knows_rows = "rows" in checkpoint.get("data", {})
            tell(*keep_split(options.data, trained, self.config.subcommand, knows_rows=knows_rows))
            options.seed_everything = options.model.seed = options.data.seed

    def _take_checkpoint(self, options: Namespace) -> dict[str, Any] | None:
        """Read what ``--ckpt_path`` means, and put the file's path in place of a word; None to start anew."""
        word, logs = str(options.ckpt_path), log_folder(options.trainer.default_root_dir)
        fits = self.config.subcommand == "fit"
        if word == ("best" if fits else "auto"):
            words = "last, auto" if fits else "last, best"
            raise UserError(f"--ckpt_path: got {word}, {self.config.subcommand} takes {words}, a file or a folder")
        if word not in WORDS:
            # A training resumes where it stood last.
            wanted = ("last.ckpt", "best.ckpt") if fits else ("best.ckpt", "last.ckpt")
            options.ckpt_path = str(find_checkpoint(word, wanted=wanted))
            return read_checkpoint(options.ckpt_path)
        if not fits:
            with_config = any(argument.partition("=")[0] in ("--config", "-c") for argument in self._arguments)
            path = find_checkpoint(word, logs=logs / self._run_name if with_config else logs)
            options.ckpt_path = str(path)
            return read_checkpoint(path)
        if word == "auto" and options.trainer.logger is False:
            raise UserError("--ckpt_path: got auto, which looks in the log folder: trainer.logger must not be false")
        newest, checkpoint, skipped = newest_checkpoint(logs / self._run_name)
        tell(*(f"skipped: {line}" for line in skipped))
        if newest is None and word == "last":
            raise UserError(f"--ckpt_path: got last, but {logs / self._run_name} holds no whole checkpoint of a fit")
        if newest is None:
            tell(f"checkpoint: none in {logs / self._run_name}, so the training begins anew")
            options.ckpt_path = None
            return None
        options.ckpt_path = str(newest)
        return checkpoint

    def _set_seed(self) -> None:
        seed = self.config[self.config.subcommand].seed_everything
        if not 0 <= seed < 2**32:
            raise UserError(f"seed_everything: got {seed}, must be from 0 to 4294967295")
        super()._set_seed()

    def instantiate_classes(self) -> None:
        """Make the trainer, the model and the data; raises UserError."""
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except (ValueError, TypeError) as error:
            if "class_path" not in str(error) and "Union subtypes" not in str(error):
                raise
            # A callback, logger or other class of trainer.
            raise UserError(f"trainer: {reason_of_class(str(error))}") from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the logger, the checkpoints and the callbacks that every run has."""
        config = self.config_init[self.subcommand]
        trainer = config.trainer
        check_trainer_options(trainer)
        if trainer.strategy in START_METHODS:
            # The others start their processes within each of fit and test, and end them with it: what is held between
            # the two would be lost. Here every process runs the whole command.
            trainer.strategy = "ddp"
        if config.data.validation == "none":
            if self.subcommand == "validate":
                raise UserError("data.validation: got none, which leaves nothing to validate")
            trainer.limit_val_batches = 0
        self._check_own_options(config)
        if self.subcommand in LOOKING:
            kwargs["logger"] = False
        elif trainer.logger in (None, True):
            kwargs["logger"] = make_logger(trainer.default_root_dir, self._run_name, self._origin)
        self.report = Report()
        self.checkpoints = checkpoint_callbacks()
        best, last = self.checkpoints
        keeps = trainer.enable_checkpointing is not False
        # There is no best one where nothing validates.
        validates = trainer.limit_val_batches != 0
        self.judged = JudgedWeights(config.test, best if keeps and validates else None, last if keeps else None)
        # What draws and tells at the end of the training comes after what chooses the weights.
        callbacks = [
            self.judged,
            Histograms(),
            Health(HEALTH_EVERY_N_RECORDS),
            Pictures(),
            self.report,
            EventsOfCheckpoints(),
        ]
        given = as_list(trainer.callbacks)
        if trainer.enable_progress_bar is not False and not any(isinstance(one, ProgressBar) for one in given):
            callbacks.append(GroupProgressBar(refresh_rate=REFRESH_EVERY_N_STEPS))
        if keeps:
            callbacks += [best, last] if validates else [last]
        if config.patience is not None:
            callbacks.append(Patience("val/loss", patience=config.patience))
        if trainer.profiler is None:
            kwargs["profiler"] = NoProfiler()
        kwargs["callbacks"] = [*given, *callbacks]
        kwargs["plugins"] = [*as_list(trainer.plugins), AtomicCheckpointIO()]
        try:
            instance = super().instantiate_trainer(**kwargs)
        except UserError:
            raise
        except (ValueError, TypeError, KeyError, RuntimeError, ModuleNotFoundError, MisconfigurationException) as error:
            # Lightning does not always say which option it means.
            options = given_options(trainer, self.trainer_defaults)
            raise UserError(f"trainer: {error} (given: {options})") from error
        check_strategy(instance)
        if self.subcommand == "fit":
            assert isinstance(instance, CommandTrainer)
            instance.check_callbacks_for(config.model)
        # After all that save at the same moments; as an option it would be refused where no checkpoints are wanted.
        self.interruption = Interruption(last if keeps else None)
        instance.callbacks.append(self.interruption)  # type: ignore[attr-defined]
        return instance

    def after_instantiate_classes(self) -> None:
        """Load the data, so that what is wrong with them shows before the logger writes its first file."""
        if self._description is not None:
            self.datamodule.read_as(self._description)
        self.datamodule.setup(self.subcommand)
        data = self.datamodule.data
        self.model.check_widths(data.n_features, data.n_classes, self._sizes)
        if self.subcommand != "fit":
            self.model.judged = self._weights
            return
        options, processes = self.model.hparams, self.trainer.world_size
        setting = Setting(
            state=self.model.states_kept() / (processes if options["shard_optimizer"] else 1),
            rows=math.ceil(min(self.datamodule.batch_size, len(data.train_y)) / processes),
            held=sum(part.nbytes for part in vars(data).values() if isinstance(part, torch.Tensor)),
            precision=str(self.trainer.precision),
            device=self.trainer.strategy.root_device,
        )
        check_memory(options, [data.n_features, *options["hidden"], data.n_classes], setting)

    @staticmethod
    def _check_own_options(config: Namespace) -> None:
        if config.patience is not None and config.patience < 1:
            raise UserError(f"patience: got {config.patience}, must be at least 1")
        if config.trainer.limit_val_batches == 0 and (config.patience is not None or config.test == "best"):
            option = "test: got best" if config.test == "best" else f"patience: got {config.patience}"
            raise UserError(
                f"{option}, which needs validation: trainer.limit_val_batches must not be 0, nor data.validation none"
            )
        if config.trainer.enable_checkpointing is False and config.test == "best":
            raise UserError("test: got best, which needs checkpoints: trainer.enable_checkpointing must not be false")
        config.model.check_batch_size(config.data.batch_size)
        if config.model.hparams["averaging"] != "none" and config.trainer.precision == "bf16-true":
            raise UserError(
                "trainer.precision: got bf16-true, too coarse for model.averaging's small steps; use bf16-mixed"
            )

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in LOOKING:
            return kwargs
        kwargs["weights_only"] = True
        if subcommand != "fit":
            kwargs["verbose"] = False
        return kwargs

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand != "fit":
            super()._run_subcommand(subcommand)
            return
        # Not around the options too, whose checks compare with 0.
        try:
            with no_denormals(), settled_objects():
                super()._run_subcommand(subcommand)
        except Stopped as stopped:
            kept = [Path(each.best_model_path) for each in self.checkpoints if each.best_model_path]
            stopped.trained = self.interruption.trained
            # To train on the last weights are wanted, and to test those that the training is judged by.
            tests_best = stopped.trained and self.config_init.fit.test != "last"
            stopped.kept = [path for path in (kept if tests_best else kept[::-1]) if path.is_file()]
            raise

    def before_fit(self) -> None:
        """Take the run's folder, and note where the training starts from, for a run that resumes from it."""
        keep_freed_memory()
        logger, folder = tensorboard_logger(self.trainer), run_folder(self.trainer)
        if isinstance(logger, RunLogger):
            logger.begin(self.config.fit.ckpt_path)
        elif folder is not None:
            note_start(folder, self.config.fit.ckpt_path)

    def after_fit(self) -> None:
        """Test the weights that the training is judged by, then tell."""
        choice, failure = self.config_init.fit.test, self.judged.failure
        if choice == "best" and not self.checkpoints[0].best_model_path:
            raise UserError("test: got best, but the training ended before its first validation; use last")
        if choice == "best" and failure is not None:
            raise UserError(f"test: got best, but {failure}")
        if failure is not None:
            tell(f"the last weights take the place of the best: {failure}")
        if choice != "never" and not self.trainer.interrupted:
            self.trainer.test(self.model, self.datamodule, verbose=False)
        self.report.finish(self.trainer, self.model)

    def after_validate(self) -> None:
        """Tell."""
        self.report.finish(self.trainer, self.model)

    def after_test(self) -> None:
        """Tell."""
        self.report.finish(self.trainer, self.model)


def _take_over(options: Namespace, defaults: Namespace, trained: dict[str, Any]) -> None:
    """Set the options that were left alone, and the seed, to what a training had."""
    for name, value in trained.items():
        if name not in options:
            continue
        if isinstance(options[name], Namespace):
            _take_over(options[name], defaults[name], value)
        elif name == "seed" or options[name] == defaults[name]:
            options[name] = value


def main(args: list[str] | None = None) -> None:
    """Run the command line; whatever the user can mend ends as one line and exit status 2."""
    arguments = sys.argv[1:] if args is None else args
    quiet_lightning()
    register_strategies()
    try:
        if not answer(arguments):
            with stopping_signals(), quiet_event_writer():
                CLI(args)
    except Stopped as stopped:
        tell(stopped.message(arguments))
        # Lightning takes another status of one process for a failure, and kills the others on their way out.
        sys.exit(stopped.status if is_first() else 0)
    except NotFinite as error:
        # All processes of a run find it; the first one tells, and is not to be ended by the status of another.
        if not is_first():
            sys.exit(0)
        if error.checkpoint is None:
            fail(str(error))
        command = with_checkpoint(arguments, error.checkpoint)
        fail(f"{error.cause}; to return to the last good checkpoint: {command}")
    except UserError as error:
        fail(str(error))
    except MisconfigurationException as error:
        fail(f"trainer: {error}")
    except ModuleNotFoundError as error:
        fail(f"trainer: {error}")
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in NO_ROOM:
            fail(f"a file of the run cannot be written: {error.strerror}; make room, then resume with --ckpt_path auto")
        fail(system_error(error))
    except (MemoryError, RuntimeError) as error:
        if (line := out_of_memory(error)) is not None:
            fail(line)
        if not is_lost_process(error):
            raise
        fail(
            "another process of this training has ended or no longer answers; if it has printed no error of its own, "
            "it was killed. Resume with fit --ckpt_path and the run's last.ckpt, on any number of devices "
            f"({error})"
        )
    except ValueError as error:
        # How many minibatches an epoch has, Lightning finds out when the training starts.
        if "`val_check_interval`" not in str(error):
            raise
        fail(f"trainer.val_check_interval: {error}")
