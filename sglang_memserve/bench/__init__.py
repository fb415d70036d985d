"""`memserve bench`: systems to start, workloads to send them, and the figures that come of it."""
