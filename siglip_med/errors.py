"""The one error that is written for a person."""


class UserError(Exception):
    """Something the user gave is wrong: one line that says what, where (file, row, key) and what to do.

    Entry points print the message alone and exit with status 2; every other exception is a bug and keeps its
    traceback.
    """
