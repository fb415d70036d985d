"""What is wrong with a workload's options or data."""


class WorkloadError(ValueError):
    """The workload cannot be made. The message has the place, the field, the value and what was expected."""


def refused(where: str, field: str, value: object, why: str) -> WorkloadError:
    """`where`: the file with its line or entry, or what was being set."""
    shown = repr(value)
    shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
    return WorkloadError(f"{where}: {field} is {shown}: {why}")
