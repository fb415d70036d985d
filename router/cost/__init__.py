"""What prefill, decode and moving KV cost, by operator: `docs/cost_model.md`."""

from router.cost.model import CostModel
from router.cost.profile import Profile, ProfileError, load_profile
from router.cost.residuals import Residuals
from router.cost.shape import ModelShape, ShapeError

__all__ = [
    "CostModel",
    "ModelShape",
    "Profile",
    "ProfileError",
    "Residuals",
    "ShapeError",
    "load_profile",
]
