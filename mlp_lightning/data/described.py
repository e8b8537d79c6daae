"""How a checkpoint says that its data were read, checked against the fields that it fills."""

from collections.abc import Mapping
from typing import Any

from mlp_lightning.data.preprocessing import Preprocessing, preprocessing_from
from mlp_lightning.errors import UserError
from mlp_lightning.files.typed import fits


def described_preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing whose ``to_dict`` gave these values.

    Raises:
        UserError: they are not those of one.
    """
    try:
        found = preprocessing_from(values)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the checkpoint does not say how its data were read ({error})") from error
    if not fits(found, type(found)):
        raise UserError("the checkpoint does not say how its data were read (a value has another type)")
    return found
