"""How SGLang learns of the CPU attention."""

from sglang_memserve.cpu.attention import NAME


def add_choice() -> None:
    """Makes `--attention-backend memserve_cpu` parse."""
    from sglang.srt.arg_groups.choices import ATTENTION_BACKEND_CHOICES
    from sglang.srt.server_args import add_attention_backend_choices

    if NAME not in ATTENTION_BACKEND_CHOICES:
        add_attention_backend_choices([NAME])


def register() -> None:
    """Registers the backend's factory, in processes that run a model."""
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    register_attention_backend(NAME)(_create)


def _create(model_runner: object) -> object:
    from sglang_memserve.cpu.attention.backend import MemServeCpuAttention
    from sglang_memserve.cpu.attention.memory import keep_freed_memory
    from sglang_memserve.hook_check import require_applied

    require_applied()
    keep_freed_memory()
    return MemServeCpuAttention(model_runner)
