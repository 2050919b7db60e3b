"""Base of every typed settings block, so that unknown keys and wrong values are refused everywhere."""

from pydantic import BaseModel, ConfigDict


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
