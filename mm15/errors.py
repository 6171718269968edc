"""The one exception for what the user can mend. The command line prints it as one line and exits with status 2."""


class UserError(ValueError):
    """A mistake outside mm15: the message says what, where and how to mend it, in one line."""
