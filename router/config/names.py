"""Names that settings take as values. They stand here so that settings are checked before code is loaded."""

from __future__ import annotations

POLICY_NAMES = (
    "cost_model",
    "prompt_tree",
    "session",
    "least_load",
    "power_of_two",
    "random",
    "round_robin",
)
# sglang_router's name for a policy, and the name here.
POLICY_ALIASES = {"cache_aware": "prompt_tree", "manual": "session"}

AUTO_PROFILE = "auto"
"""The value of --profile for a built-in profile, chosen by the instances' device."""
