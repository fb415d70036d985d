"""What decode's messages do to the rooms of a prefill instance."""

import logging
import time
from collections.abc import Callable

from mempool.errors import LayoutMismatch
from mempool.layout import BlockLayout
from mempool.transfer.outgoing import OutgoingTransfer
from sglang_memserve.transfer import control
from sglang_memserve.transfer.common_layer import PrefillLayer, aborted_room, is_abort
from sglang_memserve.transfer.rooms import RoomDestination, Rooms

logger = logging.getLogger(__name__)

OpenTransfer = Callable[[control.Destination, RoomDestination], OutgoingTransfer]


class Rendezvous:
    """`handle` and `sweep` belong to the control thread, `turn_away` to any.

    `open_transfer` starts the transfer to a destination that is no dummy; its end finds the room by number.
    """

    def __init__(
        self, rooms: Rooms, common: PrefillLayer, layout: BlockLayout, open_transfer: OpenTransfer
    ) -> None:
        self._rooms = rooms
        self._common = common
        self._layout = layout
        self._open_transfer = open_transfer

    def handle(self, frames: list[bytes], peer: str) -> None:
        """Raises FrameError for what is no message of decode's. `peer`: the host that it came from."""
        if is_abort(frames):
            room = aborted_room(frames)
            if room is not None:
                self._on_abort(room)
            return
        message = control.decode_control(frames)
        if isinstance(message, control.Destination):
            self._on_destination(message, peer)
            return
        try:
            self._layout.require_same(message.layout)
        except LayoutMismatch as error:
            logger.error("refusing the decode instance at %s: %s", message.endpoint, error)

    def sweep(self) -> None:
        """Drops destinations whose request never came."""
        limit_s = time.monotonic() - self._common.bootstrap_timeout_s
        with self._rooms.lock:
            for number in self._rooms.overdue(limit_s):
                self.turn_away(number, "the request did not reach the prefill instance in time")

    def turn_away(self, number: int, reason: str) -> None:
        """Fails the destinations of a room without a request, those that come later among them."""
        with self._rooms.lock:
            if self._rooms.is_open(number):
                return
            room = self._rooms.get(number)
            if room is not None:
                room.fail(reason)
            self._rooms.drop(number)
            self._common.forget(number)
            self._rooms.refuse(number, reason)

    def _on_abort(self, number: int) -> None:
        with self._rooms.lock:
            if not self._rooms.is_open(number):
                self.turn_away(number, "aborted by the decode instance before the request came")
            elif not self._common.is_successful(number):
                self._common.fail(number, "aborted by the decode instance")

    def _on_destination(self, message: control.Destination, peer: str) -> None:
        destination = RoomDestination(message, peer)
        # Opened under the lock: a transfer that ends at once must find its room.
        with self._rooms.lock:
            if not message.is_dummy:
                destination.attach(self._open_transfer(message, destination))
            reason = self._reason_to_refuse(message)
            if reason is None:
                self._admit(message, destination)
            else:
                destination.fail(reason)

    def _reason_to_refuse(self, message: control.Destination) -> str | None:
        number = message.room
        reason = self._rooms.refusal(number)
        if reason is not None:
            return reason
        if self._common.is_failed(number):
            # Perhaps because of another decode rank's destination.
            return self._common.failure(number) or f"room {number} has failed on the prefill instance"
        if self._common.has_all_destinations(number):
            return f"room {number} already has its destination"
        try:
            self._layout.require_same(message.layout)
        except LayoutMismatch as error:
            if self._rooms.is_open(number):
                self._common.fail(number, str(error))
            else:
                self._rooms.refuse(number, str(error))
            return str(error)
        return None

    def _admit(self, message: control.Destination, destination: RoomDestination) -> None:
        if self._rooms.full and not self._rooms.is_open(message.room):
            # Not the newcomer: whoever invents rooms would close this instance to everyone else's.
            waiting = f"{self._rooms.unclaimed} destinations wait for requests that have not come"
            self.turn_away(self._rooms.most_dispensable(), waiting)
        room = self._rooms.admit(message.room, message.endpoint, destination)
        if len(room.destinations) >= message.required_destinations:
            self._common.meet(room.number, room.destinations, message.decode_prefix_len)
