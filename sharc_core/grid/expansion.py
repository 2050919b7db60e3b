"""Expand `~` and environment variables in the paths of a grid file.

This happens once, when the file is read; names, hashes, records and jobs see the expanded paths.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from sharc_core.common.errors import UserError, shown

# keys of any block whose text is a path
PATHS = {"data_dir", "results_dir", "mirror", "path", "weights", "tuned"}
# $$, $NAME, ${...}; any other $ is an ordinary character
VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([^}]*)\})")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expanded(values: Any, variables: Mapping[str, str] | None = None) -> tuple[Any, set[str]]:
    """Return a copy of a grid file's values with expanded paths, and the names of the variables used.

    `~` and `~user` at the start of a path are home folders, `$NAME` and `${NAME}` are variables, `$$` is a
    `$`. variables: the environment by default. Raises UserError for a variable that is empty or not set, and
    for an unknown user.
    """
    variables = os.environ if variables is None else variables
    used: set[str] = set()

    def walk(value: Any, key: str, above: tuple[int, ...]) -> Any:
        if isinstance(value, dict | list) and id(value) in above:
            return value  # a value that contains itself; load_grid refuses it
        if isinstance(value, dict):
            inside = (*above, id(value))
            return {k: walk(v, f"{key}.{k}" if key else str(k), inside) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(item, f"{key}.{i}", (*above, id(value))) for i, item in enumerate(value)]
        if _is_path(key.rsplit(".", 1)[-1], value):
            return _expanded(value, key, variables, used)
        return value

    return walk(values, "", ()), used


def without_folders(values: Any) -> Any:
    """Return the values of a grid file without the folders of its data and weights.

    A grid keeps its identity in another home folder, and the contents of the files have their own hashes.
    The file name of weights stays, because it may name the backbone.
    """
    if isinstance(values, list):
        return [without_folders(item) for item in values]
    if not isinstance(values, dict):
        return values
    others = {key: without_folders(value) for key, value in values.items() if not _is_path(key, value)}
    weights = {key: value for key, value in values.items() if key == "weights" and _is_path(key, value)}
    return others | {key: path.rsplit("/", 1)[-1] for key, path in weights.items()}


def _is_path(key: Any, value: Any) -> bool:
    return key in PATHS and isinstance(value, str)


def _expanded(path: str, key: str, variables: Mapping[str, str], used: set[str]) -> str:
    def value_of(match: re.Match) -> str:
        if match[1]:
            return "$"
        name = match[2] or match[3]
        if not NAME.fullmatch(name):
            raise UserError(
                f"config: {key}: {shown(match[0])} is not a variable: write $NAME, ${{NAME}}, or $$ for a $"
            )
        if not variables.get(name):
            state = "empty" if name in variables else "not set"
            raise UserError(
                f"config: {key}: the variable {name} in {shown(path)} is {state}: set it, or write $$ for a $"
            )
        used.add(name)
        return variables[name]

    without_variables = VARIABLE.sub(value_of, path)
    complete = os.path.expanduser(without_variables)
    if complete == without_variables and complete.startswith("~"):
        user = shown(complete.split("/")[0])
        raise UserError(
            f"config: {key}: there is no home folder {user}: write ./{complete} for a folder of that name"
        )
    return complete
