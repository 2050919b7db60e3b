"""The one exception that speaks to the user."""


class UserError(Exception):
    """Bad input or a broken environment: one line that names the thing and the remedy.

    The command line and the Snakemake scripts print it without a traceback and exit with
    status 1. Anything else that escapes is a defect of ours and keeps its traceback.
    """


class Missing(UserError):
    """A file that the user has yet to bring: enough for planning (a dry run), not for running."""
