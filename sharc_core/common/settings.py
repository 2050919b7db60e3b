"""Base of all typed settings blocks, which refuses unknown keys and wrong values."""

import re
from typing import Annotated
from unicodedata import category

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=64)]  # also used in file names
LARGEST = 2**63 - 1  # the largest integer that torch and tables hold


class Settings(BaseModel):
    """Frozen settings without unknown keys, conversion of strings to numbers, infinity or NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )


def no_repeats(values: list) -> list:
    """Return the values. Raises ValueError naming a value that is listed twice."""
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is listed twice")
    return values


def has_control(text: str) -> bool:
    """Return whether a text holds control characters or surrogates, which no name or path has."""
    return any(category(letter) in ("Cc", "Cs") for letter in text)


def fit_for_snakemake(path: str) -> str:
    """Return the path. Raises ValueError if Snakemake would treat a part of it as a wildcard or variable.

    All other characters are allowed, such as blanks, quotes and special characters of a shell.
    """
    if match := re.search("[{}<>]", path):
        raise ValueError(f"{match.group()} means something to Snakemake: choose a path without {{ }} < >")
    return path


# The path of a file or folder of the workflow.
WorkflowPath = Annotated[str, Field(min_length=1), AfterValidator(fit_for_snakemake)]
