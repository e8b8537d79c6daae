"""The command line: LightningCLI with this project's defaults, its config folder and one-line errors."""

import inspect
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn

import lightning.pytorch as pl
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mlp_lightning.data.module import DataModule
from mlp_lightning.errors import UserError
from mlp_lightning.messages import plain_words
from mlp_lightning.training.checkpoint import AtomicCheckpointIO, checkpoint_callback, read_checkpoint
from mlp_lightning.training.histograms import Histograms
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.pictures import Pictures
from mlp_lightning.training.quiet import quiet_lightning
from mlp_lightning.training.report import Report
from mlp_lightning.training.run_folder import make_logger
from mlp_lightning.training.strategy import check_strategy, register_strategies

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "configs"
REFRESH_EVERY_N_STEPS = 50


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print ``error: …`` and exit with status 2."""
        signatures = {"model": MLPModule, "data": DataModule, "trainer": pl.Trainer}
        options = [
            f"{group}.{name}" for group, kind in signatures.items() for name in inspect.signature(kind).parameters
        ]
        fail(plain_words(message, options))


class CLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` on MLPModule and DataModule."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            MLPModule,
            DataModule,
            args=args,
            parser_class=OneLineParser,
            parser_kwargs={"description": __doc__},
            auto_configure_optimizers=False,
            trainer_defaults={"num_sanity_val_steps": 0, "enable_model_summary": False, "max_epochs": 15},
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The Trainer's methods that are commands, with the arguments that are not options."""
        hidden = {"model", "datamodule", "weights_only"}
        return {
            "fit": hidden | {"train_dataloaders", "val_dataloaders"},
            "validate": hidden | {"dataloaders", "verbose"},
            "test": hidden | {"dataloaders", "verbose"},
        }

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
            type=Literal["last", "best", "never"],
            default="last",
            help="Which weights fit tests at its end: the last ones, those of best validation accuracy, or none.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, after the names of configs have become paths."""
        arguments, self._run_name = find_configs(sys.argv[1:] if args is None else list(args))
        self.config = parser.parse_args(arguments)

    def _parse_ckpt_path(self) -> None:
        """Look into the checkpoint before anything costs time; evaluate with the options it was trained with."""
        options = self.config[self.config.subcommand]
        if options.get("ckpt_path") is None:
            return
        checkpoint = read_checkpoint(options.ckpt_path)
        if self.config.subcommand != "fit":
            for name, value in checkpoint["hyper_parameters"].items():
                if name in options.model:
                    options.model[name] = value

    def _set_seed(self) -> None:
        seed = self.config[self.config.subcommand].seed_everything
        if not 0 <= seed < 2**32:
            raise UserError(f"seed_everything: got {seed}, must be from 0 to 4294967295")
        super()._set_seed()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the logger, the checkpoints and the callbacks that every run has."""
        config = self.config_init[self.subcommand]
        trainer = config.trainer
        if trainer.gradient_clip_val is not None:
            raise UserError(
                f"trainer.gradient_clip_val: got {trainer.gradient_clip_val}, which steps derived by hand do not see; "
                "use model.clip_norm or model.clip_value"
            )
        if trainer.accumulate_grad_batches != 1:
            raise UserError(
                f"trainer.accumulate_grad_batches: got {trainer.accumulate_grad_batches}, must be 1; "
                "a larger data.batch_size is the same gradient"
            )
        if trainer.logger in (None, True):
            kwargs["logger"] = make_logger(trainer.default_root_dir, self._run_name)
        self.report = Report()
        callbacks = [Histograms(), Pictures(), self.report]
        if trainer.enable_progress_bar is not False:
            callbacks.append(TQDMProgressBar(refresh_rate=REFRESH_EVERY_N_STEPS))
        if trainer.enable_checkpointing is not False:
            callbacks.append(checkpoint_callback())
        if config.patience is not None:
            if config.patience < 1:
                raise UserError(f"patience: got {config.patience}, must be at least 1")
            callbacks.append(EarlyStopping("val/loss", patience=config.patience))
        kwargs["callbacks"] = [*(trainer.callbacks or []), *callbacks]
        kwargs["plugins"] = [*(trainer.plugins or []), AtomicCheckpointIO()]
        try:
            instance = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError) as error:
            raise UserError(f"trainer: {error}") from error
        check_strategy(instance)
        return instance

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["weights_only"] = True
        if subcommand != "fit":
            kwargs["verbose"] = False
        return kwargs

    def after_fit(self) -> None:
        """Test, then tell."""
        weights = self.config_init.fit.test
        if weights != "never" and not self.trainer.interrupted:
            checkpoints = self.trainer.checkpoint_callback
            best = checkpoints.best_model_path if isinstance(checkpoints, ModelCheckpoint) else None
            self.trainer.test(
                self.model,
                self.datamodule,
                ckpt_path=best if weights == "best" else None,
                verbose=False,
                weights_only=True,
            )
        self.report.finish(self.trainer, self.model)

    def after_validate(self) -> None:
        """Tell."""
        self.report.finish(self.trainer, self.model)

    def after_test(self) -> None:
        """Tell."""
        self.report.finish(self.trainer, self.model)


def find_configs(arguments: list[str]) -> tuple[list[str], str]:
    """Arguments whose ``--config NAME`` are paths, from here or else from the config folder; and the last one's stem.

    Raises:
        UserError: no such config in either place.
    """
    found, run_name = [], "default"
    is_config = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if is_config or (equals and name in ("--config", "-c")):
            path = _find_config(argument if is_config else value)
            found.append(str(path) if is_config else f"{name}={path}")
            run_name = path.stem
            is_config = False
        else:
            found.append(argument)
            is_config = argument in ("--config", "-c")
    return found, run_name


def _find_config(name: str) -> Path:
    for path in (Path(name), CONFIG_FOLDER / name):
        if path.is_file():
            try:
                yaml.safe_load(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise UserError(f"--config: {path} is not a readable YAML file: {error}") from error
            return path
    known = ", ".join(sorted(path.name for path in CONFIG_FOLDER.glob("*.yaml")))
    raise UserError(f"--config: there is no file {name}, neither here nor in {CONFIG_FOLDER}, which holds {known}")


def fail(message: str) -> NoReturn:
    """Print one line and exit with status 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def main(args: list[str] | None = None) -> None:
    """Run the command line; whatever the user can mend ends as one line and exit status 2."""
    quiet_lightning()
    register_strategies()
    try:
        CLI(args)
    except UserError as error:
        fail(str(error))
    except MisconfigurationException as error:
        fail(f"trainer: {error}")
