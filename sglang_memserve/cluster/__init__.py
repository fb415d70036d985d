"""A cluster on this machine: what to start, and the processes that were started."""
