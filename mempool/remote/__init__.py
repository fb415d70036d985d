"""What instances do for each other: requests on the control channel, transfers on the block channel."""
