"""The one error that is written for a person."""

import sys
from typing import NoReturn

EXIT_STATUS = 2
"""Exit status of a run that stopped because something the user gave is wrong."""


class UserError(Exception):
    """Something the user gave is wrong: one line that says what, where (file, row, key) and what to do.

    Commands print the message alone and exit with `EXIT_STATUS`; every other exception is a bug and keeps its
    traceback.
    """


def fail(error: UserError) -> NoReturn:
    """Prints the error's one line to standard error and exits with `EXIT_STATUS`."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(EXIT_STATUS)
