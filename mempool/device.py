"""Streams, events and memory of the device that KV is on. Nothing else calls torch.cuda."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch

from mempool.host_memory import available_memory
from mempool.pinned import chunk_rows, pin, pinned_memory
from mempool.shared_memory import SharedRegion

# Below this PyTorch keeps what is given back for the next one, and rounds up by little.
_SMALL_BYTES = 1 << 20


class DeviceEvent(Protocol):
    """A point in what a device was given to do."""

    def query(self) -> bool:
        """Whether the device is past it."""

    def synchronize(self) -> None:
        """Waits until it is. Not on an engine's scheduler thread."""


class DeviceStream(Protocol):
    """What a device does in order."""

    def record_event(self) -> DeviceEvent:
        """After all that the stream was given by now."""

    def wait_event(self, event: DeviceEvent) -> None:
        """What the stream is given from now on waits for the event, on the device."""

    def wait_stream(self, stream: "DeviceStream") -> None:
        """What the stream is given from now on waits for all that the other one was given by now."""

    def synchronize(self) -> None:
        """Waits until the device has done all of it."""


class HostCopy:
    """A tensor on its way to host memory. `is_here`: whether it has come, which never waits."""

    def __init__(self, tensor: torch.Tensor, event: DeviceEvent | None = None) -> None:
        self._tensor = tensor
        self._event = event

    @property
    def is_here(self) -> bool:
        if self._event is not None and self._event.query():
            self._event = None
        return self._event is None

    def tensor(self) -> torch.Tensor:
        """On the host. Waits unless it `is_here`."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._tensor


class Device:
    """A device that has done what it is given when a call returns, as a CPU.

    `type`: torch's name for its kind. `runs_ahead`: whether calls return before the device has done what they
    give to it. Where it does not, there are no streams and no events: None stands for each.
    """

    runs_ahead = False

    def __init__(self, device: torch.device) -> None:
        self.torch_device = device
        self.type: str = device.type

    def new_stream(self) -> DeviceStream | None:
        """A stream that the engine does not use."""
        return None

    def current_stream(self) -> DeviceStream | None:
        """What this thread's calls go to."""
        return None

    def on(self, stream: DeviceStream | None) -> AbstractContextManager[object]:
        """In the block, this thread's calls go to the stream."""
        return nullcontext()

    def host_memory(self, count: int, row_bytes: int = 1) -> torch.Tensor:
        """Host memory, uint8 `[count]`, that the device copies to and from by itself where it can: at most
        `rows_a_copy` rows at once.
        """
        return torch.empty(count, dtype=torch.uint8)

    def shared_memory(self, region: SharedRegion, row_bytes: int = 1) -> torch.Tensor:
        """The region's bytes, for the device as those of `host_memory` are, as long as `region` is there."""
        return torch.from_numpy(region.bytes)

    def rows_a_copy(self, row_bytes: int) -> int | None:
        """A copy of rows of `host_memory` must not go beyond a multiple of this; None: it may."""
        return None

    def free_bytes(self) -> int:
        """How much of its memory is free; on a CPU, what a container's limit leaves."""
        return available_memory()

    def to_device(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """It, on the device, for what the current stream is given next. Does not wait for the device."""
        return tensor.to(self.torch_device, dtype, non_blocking=True)

    def to_host(self, tensor: torch.Tensor, dtype: torch.dtype) -> HostCopy:
        """Begins to copy it, after what the current stream was given by now. Does not wait."""
        stream = self.current_stream()
        if stream is None:
            return HostCopy(tensor.to("cpu", dtype))
        target = self.host_memory(tensor.numel() * dtype.itemsize).view(dtype).view(tensor.shape)
        target.copy_(tensor.to(dtype), non_blocking=True)
        return HostCopy(target, stream.record_event())


class CudaDevice(Device):
    """What it is given runs behind the caller, in streams."""

    runs_ahead = True

    def new_stream(self) -> DeviceStream:
        # Streams come round from a pool for each priority. SGLang's own are of priority 0: from that pool,
        # a new one may be the one that forwards run on.
        stream: DeviceStream = torch.cuda.Stream(self.torch_device, priority=-1)
        return stream

    def current_stream(self) -> DeviceStream:
        stream: DeviceStream = torch.cuda.current_stream(self.torch_device)
        return stream

    def on(self, stream: DeviceStream | None) -> AbstractContextManager[object]:
        context: AbstractContextManager[object] = torch.cuda.stream(stream)
        return context

    def host_memory(self, count: int, row_bytes: int = 1) -> torch.Tensor:
        if count <= _SMALL_BYTES:
            return torch.empty(count, dtype=torch.uint8, pin_memory=True)
        return pinned_memory(count, row_bytes, torch.cuda.cudart())

    def shared_memory(self, region: SharedRegion, row_bytes: int = 1) -> torch.Tensor:
        return pin(super().shared_memory(region), region, row_bytes, torch.cuda.cudart())

    def rows_a_copy(self, row_bytes: int) -> int | None:
        return chunk_rows(row_bytes)

    def free_bytes(self) -> int:
        return int(torch.cuda.mem_get_info(self.torch_device)[0])


def device_of(device: torch.device) -> Device:
    return CudaDevice(device) if device.type == "cuda" else Device(device)


def host_device() -> Device:
    """The device that host memory is for which no tensor says it: CUDA's, where there is one."""
    return device_of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


Ready = Callable[[], bool]


def all_past(*events: DeviceEvent | None) -> Ready | None:
    """Whether the device is past the events; None where there are none. It is asked again and again."""
    given = [event for event in events if event is not None]
    return (lambda: all(event.query() for event in given)) if given else None
