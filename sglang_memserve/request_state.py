"""What MemServe keeps of one request, in the only attribute that it sets on SGLang's `Req`."""

from dataclasses import dataclass
from typing import Any, NamedTuple

_ATTRIBUTE = "memserve"


class LoadedPrefix(NamedTuple):
    """KV that was loaded into the tree for one request's prompt, from token `start` on.

    `from_dram`, `fetched`: tokens that this instance's DRAM had, and tokens that the instance `source` sent.
    """

    start: int = 0
    from_dram: int = 0
    fetched: int = 0
    source: str = ""


class PromptKey(NamedTuple):
    """A prompt by the key of its whole pages, and the bytes of the token ids after them."""

    pages: bytes
    rest: bytes


@dataclass(slots=True)
class RequestState:
    """Prefill: `began_early`: the prompt was computed before decode had room for it.

    Decode: `streamed`: SGLang's stream offsets by name, as they were once the first token was streamed ahead
    of the scheduler; None where it was not.

    Caching: `looked_up`: DRAM has been searched for the prompt. `prefix_tokens`: how many tokens of the
    prompt the tree had. `loaded`: what was loaded into the tree for it. `previous_turn`: the prompt that this
    one goes on from, where its answer had yet to be written back when this one arrived.
    """

    began_early: bool = False
    streamed: dict[str, Any] | None = None
    looked_up: bool = False
    prefix_tokens: int = 0
    loaded: LoadedPrefix | None = None
    previous_turn: PromptKey | None = None


def request_state(req: Any) -> RequestState:
    """The request's state, made at the first call. Any thread may call it."""
    state: RequestState | None = vars(req).get(_ATTRIBUTE)
    if state is None:
        # Two threads that come first together get the same one.
        state = vars(req).setdefault(_ATTRIBUTE, RequestState())
    return state
