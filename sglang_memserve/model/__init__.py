"""Which model an instance serves, and what its KV costs. Importing this loads no torch."""

from sglang_memserve.model.embedded import ModelError, embedded_model, resolve_model
from sglang_memserve.model.info import ModelInfo, describe_model

__all__ = ["ModelError", "ModelInfo", "describe_model", "embedded_model", "resolve_model"]
