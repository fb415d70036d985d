"""The hint that a request carries: other instances have KV of its prompt."""

from typing import Annotated, Any

import msgspec

from mempool.sources import MAX_SOURCES, FetchSource

ACTION = "memserve.fetch"


Tokens = Annotated[int, msgspec.Meta(gt=0)]


class HintedSource(msgspec.Struct, frozen=True):
    """One of several. `tokens`: as in `FetchHint`. `bandwidth`: what it can send, in bytes a second."""

    instance: Annotated[str, msgspec.Meta(max_length=256)]
    tokens: Tokens | None = None
    bandwidth: Annotated[float, msgspec.Meta(gt=0)] | None = None


class FetchHint(msgspec.Struct, frozen=True):
    """Instance `source` has KV of the prompt, or several have. The request may wait `deadline_ms` for it.

    `role`: of the instance that is to fetch; None: whichever gets the request. `tokens`: how many of the
    prompt's tokens the source has in HBM or DRAM; None: not known, and the source sends what is in its DRAM,
    without a question to its scheduler.
    """

    source: str | Annotated[tuple[HintedSource, ...], msgspec.Meta(min_length=1, max_length=MAX_SOURCES)] = (
        msgspec.field(name="from")
    )
    deadline_ms: Annotated[float, msgspec.Meta(gt=0, le=60_000)] = 1000.0
    role: str | None = None
    tokens: Tokens | None = None

    @property
    def sources(self) -> tuple[HintedSource, ...]:
        """All of them, each with its tokens."""
        return (HintedSource(self.source, self.tokens),) if isinstance(self.source, str) else self.source

    @property
    def longest(self) -> int | None:
        """How many of the prompt's tokens can come. None: not known."""
        counts = [source.tokens for source in self.sources if source.tokens is not None]
        return max(counts) if len(counts) == len(self.sources) else None

    @property
    def from_engine(self) -> bool:
        """Whether the sources are to send what only their HBM has, too."""
        return any(source.tokens is not None for source in self.sources)

    def others(self, name: str) -> "FetchHint | None":
        """The same hint without the instance of that name among its sources. None where no other is left."""
        left = tuple(source for source in self.sources if source.instance != name)
        if not left or isinstance(self.source, str):
            return self if left else None
        return msgspec.structs.replace(self, source=left)

    def fetched_from(self, page_size: int) -> str | list[FetchSource]:
        """The sources, as `MemPool.fetch` takes them."""
        if isinstance(self.source, str):
            return self.source
        return [
            FetchSource(instance, None if tokens is None else tokens // page_size, bandwidth)
            for instance, tokens, bandwidth in map(msgspec.structs.astuple, self.source)
        ]


def fetch_hint_of(req: Any) -> FetchHint | None:
    """From an action of `kv_hints`, or else from `custom_params`.

    Raises msgspec.ValidationError for a hint that cannot be read.
    """
    envelope, custom = req.kv_hints, req.sampling_params.custom_params
    for action in envelope.actions if envelope is not None else ():
        if action.action_type == ACTION:
            return msgspec.convert(action.payload, FetchHint)
    if isinstance(custom, dict) and ACTION in custom:
        return msgspec.convert(custom[ACTION], FetchHint)
    return None


def request_key(req: Any) -> int | str:
    """The request's room where it has one, else its own id."""
    key: int | str = req.bootstrap_room or req.rid
    return key
