"""Entry point of `sglang.srt.plugins`. SGLang calls it in its main, scheduler and detokenizer processes."""

import logging
import sys

from sglang_memserve import compat
from sglang_memserve.cpu import attention as cpu_attention
from sglang_memserve.cpu.attention import registration
from sglang_memserve.cpu_host import on_cpu
from sglang_memserve.hooks import table as hooks

logger = logging.getLogger(__name__)


def register() -> None:
    """Adds the transfer backend to SGLang and, where there is no GPU, the CPU attention.

    SGLang swallows what a plug-in raises. A stock server must not suffer from a plug-in that it does not use,
    so an untested SGLang ends the process only when the command line asks for MemServe.
    """
    reason = compat.untested_sglang()
    if reason is not None:
        if {compat.BACKEND, cpu_attention.NAME} & set(sys.argv):
            raise SystemExit(f"error: {reason}")
        logger.warning("%s", reason)
        return
    compat.add_transfer_backend()
    compat.add_radix_cache()
    if on_cpu():
        registration.add_choice()
    hooks.register()
