"""Silence what Lightning itself says and a user of this project can do nothing about; each by its own words."""

import logging
import warnings


def quiet_lightning() -> None:
    """Drop one deprecation that Lightning's own code causes, and its advertisement of another logger."""
    warnings.filterwarnings(
        "ignore",
        message=r".*isinstance\(treespec, LeafSpec\)",
        category=FutureWarning,
        module=r"lightning\.pytorch\.utilities\._pytree",
    )
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage()
    )
