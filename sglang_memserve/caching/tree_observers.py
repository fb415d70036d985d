"""Observers of SGLang's tree. It calls them on SGLang's scheduler thread; they must not block."""

from typing import Any, Protocol

import torch

from sglang_memserve.request_state import LoadedPrefix


class RequestObserver(Protocol):
    """Follows requests through the tree. `req`: SGLang's Req; `key`: its RadixKey."""

    def load_prefix(self, key: Any, req: Any, present: int) -> LoadedPrefix | None:
        """The tree is matched for the request, and has `present` tokens of it.

        Returns what was loaded into the tree for it; None for nothing.
        """

    def on_finish(self, req: Any, up_to: int) -> None:
        """The request has ended, and the tree has its KV up to token `up_to`."""

    def on_release(self, req: Any, finished: bool) -> None:
        """The request has let go of its KV: it has ended, or is scheduled again later."""

    def on_flush(self) -> None:
        """The tree is about to be emptied: nothing that was kept may be used again."""


class PageObserver(Protocol):
    """Follows the pages of the tree. `slots`: tensors of SGLang's slots, whole pages each."""

    def on_insert(self, key: Any, slots: torch.Tensor, present: int) -> None:
        """The tree has the whole pages of `key`, in these slots. It had the first `present` tokens before."""

    def on_free(self, slots: list[torch.Tensor]) -> None:
        """The tree has given these slots back to the allocator."""

    def on_reset(self) -> None:
        """The tree has been emptied."""
