"""A room for each sample of a prompt, in SGLang's main process.

For `n` > 1, SGLang 0.5.23 sends a warm-up of each prompt and then its n samples, all into one room. Prefill
and decode send them in the same order, so the k-th use of a room gets the same new room on both.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any
from weakref import WeakKeyDictionary

_ROOM_BITS = (1 << 63) - 1
# Odd, so that all uses of a room get different rooms, and large: a batch's rooms may be neighbours.
_STRIDE = 0x1E3779B97F4A7C15


def room_of(room: int, use: int) -> int:
    """The room for use number `use` of `room`: use 0 is the room itself. Never 0."""
    return (room + use * _STRIDE) & _ROOM_BITS or 1


class SampleRooms:
    """The hooks of one process, and how often each room was used, as long as its request is answered."""

    def __init__(self) -> None:
        # By SGLang's TokenizerManager: several in one process may serve the same room.
        self._uses: WeakKeyDictionary[Any, dict[int, int]] = WeakKeyDictionary()

    def count_uses(
        self,
        original: Callable[..., AsyncIterator[Any]],
        manager: Any,
        batch: Any,
        *args: Any,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Around `TokenizerManager._handle_batch_request`."""
        rooms = getattr(batch, "bootstrap_room", None) or []
        samples = getattr(batch, "parallel_sample_num", 1)
        # SGLang has made the rooms a list, with the prompts' own first.
        own = {room: 0 for room in rooms[: batch.batch_size] if room} if samples != 1 else {}
        answers = original(manager, batch, *args, **kwargs)
        return self._counting(manager, own, answers) if own else answers

    def send_to_room(
        self, original: Callable[..., Any], manager: Any, tokenized: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Around `TokenizerManager._send_one_request`."""
        uses = self._uses.get(manager, {})
        room: Any = getattr(tokenized, "bootstrap_room", None)
        if room in uses:
            tokenized.bootstrap_room = room_of(room, uses[room])
            uses[room] += 1
        return original(manager, tokenized, *args, **kwargs)

    async def _counting(self, manager: Any, own: dict[int, int], answers: Any) -> AsyncIterator[Any]:
        uses = self._uses.setdefault(manager, {})
        uses.update(own)
        try:
            async with aclosing(answers):
                async for answer in answers:
                    yield answer
        finally:
            for room in own:
                uses.pop(room, None)
