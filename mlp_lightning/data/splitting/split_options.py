"""The options that say which samples validate and test: a checkpoint's stay, since others would mix the parts."""

from collections.abc import Mapping
from typing import Any

from mlp_lightning.errors import UserError

# What each sets apart.
SPLITTING = {
    "validation_size": "validates",
    "seed": "validates",
    "test_size": "tests",
    "test_seed": "tests",
}


def keep_split(options: Any, trained: Mapping[str, Any], command: str, *, knows_rows: bool) -> list[str]:
    """Put a checkpoint's options in place of those that would split the same data set otherwise.

    Args:
        options: of ``data.``, which change.
        trained: those of the checkpoint.
        command: what is run.
        knows_rows: whether the checkpoint holds which rows train, so that they need no drawing.

    Returns:
        A line for each option that is not taken, and one if samples that trained are to validate.

    Raises:
        UserError: another ``validation``, or with ``per_batch`` another ``batch_size``.
    """
    lines = []
    for name, verb in SPLITTING.items():
        given, kept = options[name], trained.get(name, options[name])
        if given != kept:
            options[name] = kept
            option = "seed_everything" if name == "seed" else f"data.{name}"
            lines.append(f"{option}: stays {_shown(kept)}, not {_shown(given)}: the checkpoint knows what {verb}")
    before, now = trained.get("validation", "holdout"), options["validation"]
    if command not in ("fit", "validate") or now == "none":
        return lines
    if before == "none":
        if not knows_rows:
            lines.append("data.validation: the checkpoint was trained on all samples, also on those that validate now")
    elif before != now and not knows_rows:
        raise UserError(
            f"data.validation: got {now}, must be {before} as in the checkpoint, or none: {now} would validate on "
            "samples that were trained on"
        )
    elif before == now == "per_batch" and options["batch_size"] != trained.get("batch_size"):
        raise UserError(
            f"data.batch_size: got {options['batch_size']}, must be {trained['batch_size']} as in the checkpoint: with "
            "data.validation per_batch it says which samples validate"
        )
    return lines


def _shown(value: Any) -> Any:
    """A value as a config has it."""
    # The command line reads 5000 as 5000.0.
    whole = isinstance(value, float) and value.is_integer()
    return "null" if value is None else int(value) if whole else value
