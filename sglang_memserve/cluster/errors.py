"""What can go wrong with a cluster on this machine."""


class ClusterError(RuntimeError):
    """The cluster cannot be started, or cannot serve any more. The message says what to do."""
