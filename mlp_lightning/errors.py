"""The error that a user can mend: one line, shown as it is, without a traceback."""


class UserError(ValueError):
    """A wrong option, file, shape, label or number.

    The message is one line that names the option or file, the value received and what is allowed; the command line
    prints it after ``error:`` and exits with status 2.
    """
