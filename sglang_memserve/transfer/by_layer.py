"""Layers that are sent while the next ones compute (`--memserve-transfer by-layer`)."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from mempool.transfer.outgoing import OutgoingTransfer

_WRITERS = ("set_kv_buffer", "set_mla_kv_buffer")


class LayersWritten:
    """Which layers of one batch have their KV in the pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._written: dict[int, Callable[[], bool]] = {}
        self._whole: Callable[[], bool] | None = None

    def wrote(self, layer: int) -> None:
        """What the engine has launched by now writes it."""
        self._written[layer] = self._launched(None)

    def over(self, stream: Any) -> None:
        """So are all, once what `stream` was given by now is done: kernels that are replayed, or that write
        KV themselves, name no layer.
        """
        self._whole = self._launched(stream)

    def ready(self, layer: int) -> bool:
        done = self._written.get(layer, self._whole)
        return done is not None and done()

    def _launched(self, stream: Any) -> Callable[[], bool]:
        if self._device.type != "cuda":
            return lambda: True
        event = (stream or torch.cuda.current_stream(self._device)).record_event()
        return lambda: bool(event.query())


class ByLayer:
    """Hears from the pool which layer is written. It all happens on the scheduler's thread, but for what it
    gives to transfers.
    """

    def __init__(self, pool: Any, device: torch.device, layers: int) -> None:
        self._device = device
        self._layers = layers
        self._first_layer = int(getattr(pool, "start_layer", 0) or 0)
        self._now: LayersWritten | None = None
        # What was announced of each room: which page for which position.
        self._announced: dict[int, dict[int, int]] = {}
        for name in _WRITERS:
            if hasattr(pool, name):
                setattr(pool, name, self._heard(getattr(pool, name)))

    @contextlib.contextmanager
    def batch(self, stream: Any) -> Iterator[None]:
        """Around a batch's launch. `stream` is the one that it is launched on."""
        self._now = LayersWritten(self._device)
        try:
            yield
        finally:
            self._now.over(stream)
            self._now = None

    def announce(
        self, room: int, transfers: list["OutgoingTransfer"], pages: npt.NDArray[np.int64], first: int
    ) -> None:
        """The batch writes these pages, for positions `first` and on: each layer is sent as it is there."""
        if self._now is None or not transfers or not len(pages):
            return
        self._announced.setdefault(room, {}).update(enumerate(pages.tolist(), first))
        blocks = torch.from_numpy(pages)
        for transfer in transfers:
            for layer in range(self._layers):
                for planes in transfer.store.layout.planes_of(layer):
                    transfer.send(blocks, first, partial(self._now.ready, layer), planes=planes)

    def left_over(self, room: int, pages: npt.NDArray[np.int64], first: int) -> list[tuple[slice, bool]]:
        """Of a chunk that SGLang sends now, runs that are still to be sent, and whether for the second time.

        What another request put into the tree meanwhile takes the place of this one's pages, which are
        given away: those may have been read too late.
        """
        announced = self._announced.get(room, {})
        runs: list[tuple[slice, bool]] = []
        for index, page in enumerate(pages.tolist()):
            before = announced.pop(first + index, None)
            if before == page:
                continue
            again = before is not None
            if runs and runs[-1] == (slice(runs[-1][0].start, index), again):
                runs[-1] = (slice(runs[-1][0].start, index + 1), again)
            else:
                runs.append((slice(index, index + 1), again))
        return runs

    def forget(self, room: int) -> None:
        self._announced.pop(room, None)

    def _heard(self, write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def heard(layer: Any, *args: Any, **kwargs: Any) -> Any:
            written = write(layer, *args, **kwargs)
            if self._now is not None:
                named = kwargs.get("layer_id_override")
                self._now.wrote((layer.layer_id if named is None else named) - self._first_layer)
            return written

        return heard
