"""The one kind of error that a user reads: what was wrong, and what to do."""


class LabError(Exception):
    """A fault that the user can mend.

    The message is one line that says what was wrong and what to do about it.
    The command line prints it without a traceback and exits with code 1.
    """
