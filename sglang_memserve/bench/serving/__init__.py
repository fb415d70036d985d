"""The open-loop benchmark of serving systems: client, arms, rounds and report."""
