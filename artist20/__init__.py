"""Music artist recognition on artist20: the code that the stage scripts share."""

__version__ = "0.1.0"


class UserError(Exception):
    """A mistake of the user's that one line can explain.

    Its message names the file and what to do. Scripts print it without a traceback and exit with
    status 2.
    """
