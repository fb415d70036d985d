"""Whether the parts of a running cluster fit together, and what to do where they do not."""

from sglang_memserve.doctor.evidence import Evidence, gather
from sglang_memserve.doctor.examination import examine
from sglang_memserve.doctor.finding import Finding, Severity

__all__ = ["Evidence", "Finding", "Severity", "examine", "gather"]
