"""`~` and environment variables in the paths of a grid file, expanded once, where the file is read.

What comes after that (names, hashes, records, jobs) has the folders themselves.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from sharc_core.common.errors import UserError, shown

PATHS = {
    "data_dir",
    "results_dir",
    "mirror",
    "path",
    "weights",
}  # keys whose text is a path, wherever they are
# $$, $NAME, ${...}; any other $ is only a letter
VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([^}]*)\})")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expanded(values: Any, variables: Mapping[str, str] | None = None) -> tuple[Any, set[str]]:
    """The values of a grid file with its paths expanded, and the names of the variables in them.

    `~` and `~user` at a path's start are home folders, `$NAME` and `${NAME}` variables, `$$` is a `$`.
    variables: the environment by default. The values given are not changed. Raises UserError for a variable
    that is not set or empty, and for a user that does not exist.
    """
    variables = os.environ if variables is None else variables
    used: set[str] = set()

    def walk(value: Any, key: str, above: tuple[int, ...]) -> Any:
        if isinstance(value, dict | list) and id(value) in above:
            return value  # an alias of itself, which load_grid refuses
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
    """The values of a grid file without the folders that its data and weights lie in.

    A grid is the same in another home folder; what its files hold has hashes of its own. Of weights the
    file's name stays, which may name the backbone.
    """
    if isinstance(values, list):
        return [without_folders(item) for item in values]
    if not isinstance(values, dict):
        return values
    found = {key: without_folders(value) for key, value in values.items() if not _is_path(key, value)}
    named = {key: value for key, value in values.items() if key == "weights" and _is_path(key, value)}
    return found | {key: value.rsplit("/", 1)[-1] for key, value in named.items()}


def _is_path(key: Any, value: Any) -> bool:
    return key in PATHS and isinstance(value, str)


def _expanded(path: str, key: str, variables: Mapping[str, str], used: set[str]) -> str:
    def value_of(match: re.Match) -> str:
        if match[1]:
            return "$"
        name = match[2] or match[3]
        if not NAME.fullmatch(name):
            raise UserError(
                f"config: {key}: {shown(match[0])} is no variable: write $NAME or ${{NAME}}, and $$ for a $"
            )
        if not variables.get(name):
            state = "empty" if name in variables else "not set"
            raise UserError(
                f"config: {key}: the variable {name} in {shown(path)} is {state}: set it, or write $$ for a $"
            )
        used.add(name)
        return variables[name]

    found = VARIABLE.sub(value_of, path)
    if not found.startswith("~"):
        return found
    home = os.path.expanduser(found)
    if home == found:
        user = shown(found.split("/")[0])
        raise UserError(
            f"config: {key}: there is no home folder {user}: write ./{found} for a folder of that name"
        )
    return home
