"""Base of every typed settings block, so that unknown keys and wrong values are refused everywhere."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, no unknown keys, no silent coercion of strings to numbers, no infinity or NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )
