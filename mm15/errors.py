"""What ends a command in one line: what the user can mend (status 2), and a scheduler's SIGTERM (status 143)."""


class UserError(ValueError):
    """A mistake outside mm15: the message says what, where and how to mend it, in one line."""


class Stopped(BaseException):
    """SIGTERM came and the work was put down whole. Like KeyboardInterrupt it passes through ``except Exception``."""
