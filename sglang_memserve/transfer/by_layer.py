"""Layers that are sent while the next ones compute (`--memserve-transfer by-layer`)."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mempool.device import Device, HostCopy
from mempool.transfer.outgoing import OutgoingTransfer

_WRITERS = ("set_kv_buffer", "set_mla_kv_buffer")


class AnnouncedPage(NamedTuple):
    """The page at `place` of pages that were announced together, and are on their way to the host."""

    pages: HostCopy
    place: int

    @property
    def number(self) -> int:
        """It is asked for after the forward that it was announced before: the device is past that."""
        return int(self.pages.tensor()[self.place])


class LayersWritten:
    """Which layers of one batch have their KV in the pool."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._written: dict[int, Callable[[], bool]] = {}
        self._whole: Callable[[], bool] | None = None

    def mark(self, layer: int) -> None:
        """The layer is written once what the engine has launched by now is done."""
        self._written[layer] = self._launched(None)

    def mark_rest(self, stream: Any) -> None:
        """All other layers are written once what `stream` was given by now is done: kernels that are
        replayed, or that write KV themselves, name no layer.
        """
        self._whole = self._launched(stream)

    def ready(self, layer: int) -> bool:
        done = self._written.get(layer, self._whole)
        return done is not None and done()

    def _launched(self, stream: Any) -> Callable[[], bool]:
        current = self._device.current_stream()
        if current is None:
            return lambda: True
        event = (stream or current).record_event()
        return lambda: bool(event.query())


class ByLayer:
    """Learns from SGLang's pool which layer is written. All calls are the scheduler thread's; transfers call
    what they are given from theirs.

    `announced`, in its methods: the pages that were announced of a room, by position.
    """

    def __init__(self, pool: Any, device: Device, layers: int) -> None:
        self._device = device
        self._layers = layers
        self._first_layer = int(getattr(pool, "start_layer", 0) or 0)
        self._batch: LayersWritten | None = None
        for name in _WRITERS:
            if hasattr(pool, name):
                setattr(pool, name, self._marking(getattr(pool, name)))

    @contextlib.contextmanager
    def batch(self, stream: Any) -> Iterator[None]:
        """Around a batch's launch. `stream` is the one that it is launched on."""
        self._batch = LayersWritten(self._device)
        try:
            yield
        finally:
            self._batch.mark_rest(stream)
            self._batch = None

    def announce(
        self,
        announced: dict[int, AnnouncedPage],
        transfers: list[OutgoingTransfer],
        pages: torch.Tensor,
        first: int,
    ) -> None:
        """The batch writes these pages (int64 `[n]`, on the pool's device), for positions `first` and on:
        each layer is sent once it is there.
        """
        # Under overlap a chunk is launched before SGLang has sent the one before, and names its pages again.
        known = next((n for n in range(len(pages)) if first + n not in announced), len(pages))
        first, pages = first + known, pages[known:]
        if self._batch is None or not transfers or not len(pages):
            return
        copy = self._device.to_host(pages, torch.int64)
        announced.update((first + index, AnnouncedPage(copy, index)) for index in range(len(pages)))
        for transfer in transfers:
            for layer in range(self._layers):
                for planes in transfer.store.layout.planes_of(layer):
                    transfer.send(pages, first, partial(self._batch.ready, layer), planes=planes)

    def left_over(
        self, announced: dict[int, AnnouncedPage], pages: npt.NDArray[np.int64], first: int
    ) -> list[tuple[slice, bool]]:
        """The runs of a chunk that are still to be sent, and whether for the second time.

        KV that another request put into the tree meanwhile takes the place of this one's pages. Those are
        given away, and may have been read too late.
        """
        runs: list[tuple[slice, bool]] = []
        for index, page in enumerate(pages.tolist()):
            before = announced.pop(first + index, None)
            if before is not None and before.number == page:
                continue
            again = before is not None
            if runs and runs[-1] == (slice(runs[-1][0].start, index), again):
                runs[-1] = (slice(runs[-1][0].start, index + 1), again)
            else:
                runs.append((slice(index, index + 1), again))
        return runs

    def _marking(self, write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def marking(layer: Any, *args: Any, **kwargs: Any) -> Any:
            written = write(layer, *args, **kwargs)
            if self._batch is not None:
                named = kwargs.get("layer_id_override")
                self._batch.mark((layer.layer_id if named is None else named) - self._first_layer)
            return written

        return marking
