"""Format an error of pydantic as one line that names the key, the value and what is allowed."""

from pydantic import BaseModel, ValidationError

from sharc_core.common.errors import shown
from sharc_core.common.registry import nearest


def explain(
    error: ValidationError, model: type[BaseModel], prefix: str = "", also: list[str] | None = None
) -> str:
    """Return one line on a validation error: the key, its value and what is allowed.

    prefix: key of the block that was validated. also: valid keys besides those of the model. Of several
    errors the one deepest in the block is reported: where a value may be a block or a list of blocks, it
    comes from the form that the user wrote.
    """
    first = max(error.errors(), key=lambda item: len(item["loc"]))
    where = [str(part) for part in first["loc"] if not _is_union_tag(part)]
    key = ".".join([prefix, *where] if prefix else where)
    value = first["input"]
    if first["type"] == "extra_forbidden":
        valid = sorted([*_keys_beside(model, first["loc"]), *(also or [])])
        return f"unknown key {shown(key)}{nearest(where[-1], valid)}; valid: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if isinstance(value, dict) else f" (got {shown(value)})"
    hint = nearest(value, _expected(first["ctx"]["expected"])) if first["type"] == "literal_error" else ""
    place = f"{key}: " if key else ""  # an error of the whole file names the keys itself
    return f"{place}{message[:1].lower()}{message[1:]}{got}{hint}"


def _is_union_tag(part: str | int) -> bool:
    """Return whether a part of pydantic's location names the branch of a union, not a key of the file."""
    if not isinstance(part, str):
        return False
    return "[" in part or part in {
        "float",
        "int",
        "str",
        "constrained-float",
        "constrained-int",
        "BackboneConfig",
        "BudgetConfig",
        "Mass",
        "constrained-str",
    }


def _expected(text: str) -> list[str]:
    return [part.strip(" '") for part in text.replace(" or ", ",").split(",")]


def _keys_beside(model: type[BaseModel], path: tuple) -> list[str]:
    """Return the valid keys of the block with an unknown key, by following the types of the model."""
    for part in path[:-1]:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            continue  # an index of a list or a tag of a union: same model
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if models:
            model = models[0]
    return sorted(model.model_fields)
