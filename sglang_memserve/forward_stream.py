"""When the engine has written the KV that it has launched."""

from typing import Any

import torch


class ForwardStream:
    """For SGLang's scheduler thread, on `device`.

    `stream`: what the scheduler launches forwards on; None for the stream that is current in its thread.
    """

    def __init__(self, device: torch.device, stream: Any = None) -> None:
        self._device = device
        self._stream = stream

    def record(self) -> torch.cuda.Event | None:
        """An event after all that was launched by now, which may still write an answer, or to pages that were
        given away since. None where nothing runs behind the scheduler's thread.
        """
        if self._device.type != "cuda":
            return None
        current = torch.cuda.current_stream(self._device)
        if self._stream is None:
            return current.record_event()
        # SGLang restores KV on the current one. The next forward would wait for that too.
        self._stream.wait_stream(current)
        return self._stream.record_event()
