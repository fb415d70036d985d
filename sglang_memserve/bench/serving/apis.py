"""The four HTTP APIs for a conversation, and how their streams are read."""

from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from sglang_memserve.bench.serving.answer import RequestError, StreamedAnswer
from sglang_memserve.bench.workloads.form import WorkloadTurn


@dataclass(frozen=True)
class RequestSettings:
    """Fields of every request. `ignore_eos`: generate exactly as many tokens as asked (SGLang, vLLM).

    `names_sessions`: send the session's name as SGLang's `routing_key` on `/generate`.
    """

    model: str = "default"
    ignore_eos: bool = True
    names_sessions: bool = False


class Conversation(Protocol):
    """The client's side of one session. Each prompt holds the answers that really came before."""

    path: str

    def ask(self, turn: WorkloadTurn) -> bytes:
        """The body of the request for the next answer. Raises RequestError if the turn lacks its text."""

    def on_event(self, event: dict[str, Any], at: float, answer: StreamedAnswer) -> None:
        """Adds what one event of the stream says, `at` seconds. Raises RequestError for a failure."""

    def keep(self, answer: StreamedAnswer) -> None:
        """Adds the whole answer to the dialogue. Raises RequestError where it cannot be continued."""


class Generate:
    """SGLang's own API with token ids both ways: the next prompt holds the exact tokens of the answer."""

    path = "/generate"

    def __init__(self, asking: RequestSettings, session: str = "") -> None:
        self._asking = asking
        self._session = session
        self._tokens: list[int] = []

    def ask(self, turn: WorkloadTurn) -> bytes:
        self._tokens += turn.tokens
        return self._body(turn, input_ids=self._tokens)

    def on_event(self, event: dict[str, Any], at: float, answer: StreamedAnswer) -> None:
        meta = event.get("meta_info") or {}
        reason = meta.get("finish_reason")
        if reason and reason.get("type") == "abort":
            raise RequestError(f"aborted: {reason.get('message') or 'no reason given'}")
        ids, had = event.get("output_ids") or [], len(answer.token_times)
        total = int(meta.get("completion_tokens") or len(ids))
        # SGLang sends all tokens so far, or the new ones alone under --incremental-streaming-output.
        whole = not ids or len(ids) >= total
        answer.ids = ids if whole else answer.ids + ids
        answer.add_tokens(at, total - had)
        answer.reported_tokens = total or None
        text = event.get("text") or ""
        answer.text = (text or answer.text) if whole else answer.text + text
        answer.finished = answer.finished or bool(reason)
        answer.prompt_tokens = meta.get("prompt_tokens", answer.prompt_tokens)
        answer.cached_tokens = meta.get("cached_tokens", answer.cached_tokens)
        answer.cached_by = _counts(meta.get("cached_tokens_details")) or answer.cached_by

    def keep(self, answer: StreamedAnswer) -> None:
        if len(answer.ids) != answer.tokens:
            raise RequestError(
                "the server did not report the answer's token ids (output_ids): use --api completions"
            )
        self._tokens += answer.ids

    def _body(self, turn: WorkloadTurn, **prompt: Any) -> bytes:
        sampling = {
            "max_new_tokens": turn.output_tokens,
            "temperature": 0,
            "ignore_eos": self._asking.ignore_eos,
        }
        named = {"routing_key": self._session} if self._asking.names_sessions else {}
        return orjson.dumps({**prompt, "sampling_params": sampling, "stream": True, **named})


class GenerateText(Generate):
    """SGLang's own API with text. sglang-router needs it: for pairs it routes by text alone."""

    def __init__(self, asking: RequestSettings, session: str = "") -> None:
        super().__init__(asking, session)
        self._text = ""

    def ask(self, turn: WorkloadTurn) -> bytes:
        self._text += _text_of(turn)
        return self._body(turn, text=self._text)

    def keep(self, answer: StreamedAnswer) -> None:
        self._text += answer.text


class Completions:
    """OpenAI's completions: the prompt is all text so far."""

    path = "/v1/completions"

    def __init__(self, asking: RequestSettings, session: str = "") -> None:
        self._asking = asking
        self._text = ""

    def ask(self, turn: WorkloadTurn) -> bytes:
        self._text += _text_of(turn)
        return _openai_body(self._asking, turn, prompt=self._text)

    def on_event(self, event: dict[str, Any], at: float, answer: StreamedAnswer) -> None:
        for choice in _openai_choices(event, answer):
            _openai_text(choice.get("text"), at, answer)

    def keep(self, answer: StreamedAnswer) -> None:
        self._text += answer.text


class ChatCompletions:
    """OpenAI's chat completions: the server puts the messages into the model's template."""

    path = "/v1/chat/completions"

    def __init__(self, asking: RequestSettings, session: str = "") -> None:
        self._asking = asking
        self._messages: list[dict[str, str]] = []

    def ask(self, turn: WorkloadTurn) -> bytes:
        self._messages.append({"role": "user", "content": _text_of(turn)})
        return _openai_body(self._asking, turn, messages=self._messages)

    def on_event(self, event: dict[str, Any], at: float, answer: StreamedAnswer) -> None:
        for choice in _openai_choices(event, answer):
            _openai_text((choice.get("delta") or {}).get("content"), at, answer)

    def keep(self, answer: StreamedAnswer) -> None:
        self._messages.append({"role": "assistant", "content": answer.text})


APIS: dict[str, type[Generate] | type[Completions] | type[ChatCompletions]] = {
    "generate": Generate,
    "generate-text": GenerateText,
    "completions": Completions,
    "chat": ChatCompletions,
}


def _text_of(turn: WorkloadTurn) -> str:
    if turn.text is None:
        raise RequestError("the workload has token ids alone, no text: use --api generate")
    return turn.text


def _openai_body(asking: RequestSettings, turn: WorkloadTurn, **prompt: Any) -> bytes:
    body = {
        "model": asking.model,
        **prompt,
        "max_tokens": turn.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    # OpenAI's own servers refuse a field that they do not know.
    return orjson.dumps(body | ({"ignore_eos": True} if asking.ignore_eos else {}))


def _openai_choices(event: dict[str, Any], answer: StreamedAnswer) -> list[dict[str, Any]]:
    if usage := event.get("usage"):
        answer.prompt_tokens = usage.get("prompt_tokens", answer.prompt_tokens)
        answer.reported_tokens = usage.get("completion_tokens") or answer.reported_tokens
        details = usage.get("prompt_tokens_details") or {}
        answer.cached_tokens = details.get("cached_tokens", answer.cached_tokens)
    choices: list[dict[str, Any]] = event.get("choices") or []
    for reason in filter(None, (choice.get("finish_reason") for choice in choices)):
        if reason == "abort":
            raise RequestError("aborted")
        answer.finished = True
    return choices


def _openai_text(text: str | None, at: float, answer: StreamedAnswer) -> None:
    if text:
        answer.text += text
        answer.add_tokens(at, 1)


def _counts(details: Any) -> dict[str, int]:
    """Those of `cached_tokens_details` that are numbers: device, host, storage."""
    return {name: n for name, n in (details or {}).items() if isinstance(n, int)}
