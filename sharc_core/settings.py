"""Base of every typed settings block, so that unknown keys and wrong types are refused everywhere."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, no unknown keys, no silent coercion of strings to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)
