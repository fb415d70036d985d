"""When the engine has written the KV that it has launched."""

from typing import Any

import torch


class ForwardStream:
    """`stream`: the CUDA stream on which the scheduler runs forwards; None elsewhere."""

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream

    def record(self) -> torch.cuda.Event | None:
        """An event after all that was launched by now, which may still write an answer, or to pages that were
        given away since. None where nothing runs behind the scheduler's thread.
        """
        return None if self._stream is None else self._stream.record_event()
