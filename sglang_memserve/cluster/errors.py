"""What can go wrong with a cluster on this machine."""


class ClusterError(RuntimeError):
    """The cluster cannot be started, or cannot serve any more. The message says what to do."""


class UsageError(ClusterError):
    """The user gave a value that cannot be worked with. The message names it, and what to give instead."""


class AdminKeyNeeded(UsageError):
    """The key that was presented is a client's, and what was asked takes an administrator's."""


def exit_status(error: Exception) -> int:
    """2 for a wrong value that the user gave, else 1."""
    return 2 if isinstance(error, UsageError) else 1
