"""When the engine has written the KV that it has launched."""

from typing import Any

from mempool.device import Device, DeviceEvent


class ForwardStream:
    """For SGLang's scheduler thread, on `device`.

    `stream`: what the scheduler launches forwards on; None for the stream that is current in its thread.
    """

    def __init__(self, device: Device, stream: Any = None) -> None:
        self._device = device
        self._stream = stream

    def record(self) -> DeviceEvent | None:
        """An event after all that was launched by now, which may still write an answer, or to pages that were
        given away since. None where nothing runs behind the scheduler's thread.
        """
        current = self._device.current_stream()
        if current is None or self._stream is None:
            return None if current is None else current.record_event()
        # SGLang restores KV on the current one. The next forward would wait for that too.
        self._stream.wait_stream(current)
        event: DeviceEvent = self._stream.record_event()
        return event

    def wait_for(self, event: DeviceEvent) -> None:
        """What is launched from now on waits for the event, on the device: SGLang's forwards wait for all
        that the current stream waits for.
        """
        current = self._device.current_stream()
        assert current is not None
        current.wait_event(event)
