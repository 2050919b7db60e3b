"""The exception for errors that the user can fix, and text for messages."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlong, _SHORT.maxstring, _SHORT.maxother = 3, 60, 120, 120


class UserError(Exception):
    """Bad input or a broken environment. The message is one line that names the problem and the remedy.

    The command line and the Snakemake scripts print it without a traceback and exit with status 1. Any other
    exception that escapes is a bug and keeps its traceback.
    """

    def __str__(self) -> str:
        """Return the message as one printable line."""
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """Escape characters that are not printable: file names may hold line feeds and terminal commands."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shown(value: object) -> str:
    """Return the repr of a user's value for a message, shortened if it is long, deep or contains itself."""
    return _SHORT.repr(value)


class Missing(UserError):
    """A file that the user must still provide. A dry run works without it, a run does not."""
