"""Base of every typed settings block, so that unknown keys and wrong values are refused everywhere."""

import re
from typing import Annotated
from unicodedata import category

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=64)]  # it names files, too
LARGEST = 2**63 - 1  # whole number: beyond it neither torch nor a table holds one


class Settings(BaseModel):
    """Frozen, no unknown keys, no silent coercion of strings to numbers, no infinity or NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )


def no_repeats(values: list) -> list:
    """The values, unless one is listed twice: then a ValueError that names it."""
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is listed twice")
    return values


def has_control(text: str) -> bool:
    """Whether a text holds control characters or halves of one, which no name or path has."""
    return any(category(letter) in ("Cc", "Cs") for letter in text)


def fit_for_snakemake(path: str) -> str:
    """The path, unless Snakemake would take a part of it for a wildcard or variable: then a ValueError.

    Everything else, blanks and quotes and all that a shell knows, is only a name.
    """
    if found := re.search("[{}<>]", path):
        raise ValueError(f"{found.group()} means something to Snakemake: choose a path without {{ }} < >")
    return path


# A path that files of the workflow lie in or that is one.
WorkflowPath = Annotated[str, Field(min_length=1), AfterValidator(fit_for_snakemake)]
