"""Hostile inputs to every socket and endpoint of a small cluster of processes, beside an honest client."""
