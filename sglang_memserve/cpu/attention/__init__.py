"""SGLang's attention on a CPU: decode in batches, and prefill whose work grows with the new tokens only."""

NAME = "memserve_cpu"


def add_choice() -> None:
    """Makes `--attention-backend memserve_cpu` parse."""
    from sglang.srt.server_args import add_attention_backend_choices

    if not is_choice():
        add_attention_backend_choices([NAME])


def is_choice() -> bool:
    from sglang.srt.arg_groups.choices import ATTENTION_BACKEND_CHOICES

    return NAME in ATTENTION_BACKEND_CHOICES


def register() -> None:
    """Tells SGLang how to make the backend; for processes that run a model."""
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    register_attention_backend(NAME)(_create)


def _create(model_runner: object) -> object:
    from sglang_memserve.cpu.attention.backend import MemServeCpuAttention
    from sglang_memserve.cpu.attention.memory import keep_freed_memory
    from sglang_memserve.hooks import table as hooks

    hooks.require_applied()
    keep_freed_memory()
    return MemServeCpuAttention(model_runner)
