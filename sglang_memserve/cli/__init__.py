"""The `memserve` command."""
