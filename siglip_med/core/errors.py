"""The one error that is written for a person."""

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # it takes long to import
    from pydantic import ValidationError

EXIT_STATUS = 2
"""Exit status of a run that stopped because something the user gave is wrong."""


class UserError(Exception):
    """Something the user gave is wrong: one line that says what, where (file, row, key) and what to do.

    Commands print the message alone and exit with `EXIT_STATUS`; every other exception is a bug and keeps its
    traceback.
    """


def one_line(error: object, most: int | None = None) -> str:
    """What a library said, on one line (of at most so many characters); its type where it said nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def first_fault(error: "ValidationError") -> str:
    """Where the first fault of a validation lies, and what it is: ``calibration.bias: input should be …``."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"


def fail(error: UserError) -> NoReturn:
    """Prints the error's one line to standard error and exits with `EXIT_STATUS`."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(EXIT_STATUS)
