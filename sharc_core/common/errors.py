"""The one exception that speaks to the user."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlong, _SHORT.maxstring, _SHORT.maxother = 3, 60, 120, 120


class UserError(Exception):
    """Bad input or a broken environment: one line that names the thing and the remedy.

    The command line and the Snakemake scripts print it without a traceback and exit with
    status 1. Anything else that escapes is a defect of ours and keeps its traceback.
    """

    def __str__(self) -> str:
        """The message in one line, whatever it names."""
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """A text fit for a terminal: the names of files may hold line feeds and commands to it."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shown(value: object) -> str:
    """A value of the user's in a message: its repr, cut short where it is long, deep or contains itself."""
    return _SHORT.repr(value)


class Missing(UserError):
    """A file that the user has yet to bring: enough for planning (a dry run), not for running."""
