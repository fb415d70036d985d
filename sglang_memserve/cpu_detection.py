"""Whether SGLang runs on MemServe's CPU platform, for modules that must not import the platform."""


class CpuPlatformMark:
    """A base of MemServe's CPU platform, by which it is known."""


def on_cpu() -> bool:
    """Whether MemServe's CPU platform is the one that SGLang runs on."""
    from sglang.srt.platforms import current_platform

    return isinstance(current_platform, CpuPlatformMark)
