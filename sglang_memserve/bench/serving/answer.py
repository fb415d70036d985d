"""One streamed answer as the client sees it, and the record of a request."""

from dataclasses import dataclass, field


class RequestError(RuntimeError):
    """A request got no whole answer. The message has what the server said."""


@dataclass(slots=True)
class StreamedAnswer:
    """Filled while it streams. Times are seconds from the request's write.

    `token_times`: when each generated token arrived; tokens of one event have one time. `end`: when the whole
    answer was there. `ids`: the generated tokens. `reported_tokens`: how many the server says it generated.
    `cached_tokens`: of the prompt's, those that were not computed again; `cached_by`: the same by source.
    What the server does not report is None, or empty.
    """

    token_times: list[float] = field(default_factory=list)
    end: float = 0.0
    text: str = ""
    ids: list[int] = field(default_factory=list)
    reported_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    cached_by: dict[str, int] = field(default_factory=dict)
    finished: bool = False

    @property
    def tokens(self) -> int:
        """Generated tokens: the server's count, or else one for each event that carried any."""
        return self.reported_tokens or len(self.token_times)

    @property
    def ttft(self) -> float:
        """To the first token."""
        return self.token_times[0]

    @property
    def tpot(self) -> float | None:
        """Per token after the first; None for an answer of one token."""
        if self.tokens < 2:
            return None
        return (self.token_times[-1] - self.token_times[0]) / (self.tokens - 1)

    def add_tokens(self, at: float, tokens: int) -> None:
        """`tokens` more have arrived."""
        self.token_times += [at] * tokens


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """One request of a run: it has an answer or an error.

    `turn` counts from 1. `planned`, `sent`: seconds from the run's start. `asked_tokens`: to be generated.
    """

    session: str
    turn: int
    planned: float
    sent: float
    asked_tokens: int
    answer: StreamedAnswer | None = None
    error: str | None = None

    @property
    def late(self) -> float:
        """Seconds between the planned time and the write: the client's own delay, not the server's."""
        return self.sent - self.planned
