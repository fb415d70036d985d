"""ShareGPT: chats of several turns with long answers, which share nothing with each other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

from msgspec import Struct, field

from sglang_memserve.bench.workloads import reading
from sglang_memserve.bench.workloads.assemble import Draft, assemble, generate
from sglang_memserve.bench.workloads.errors import refused
from sglang_memserve.bench.workloads.form import Workload, WorkloadTurn
from sglang_memserve.bench.workloads.lengths import CorrelatedDraws, Quantiles, Scaler
from sglang_memserve.bench.workloads.settings import PAPER_CONTEXT, Settings
from sglang_memserve.bench.workloads.tokens import TextEncoder, TokenSource

_PERSON = {"human", "user", "system"}
_MODEL = {"gpt", "chatgpt", "bing", "bard"}
# Of two messages of a chat. Neighbours have 0.4 to 0.6, farther ones less; 0.3 fits what a 4K window keeps.
_LIKENESS = 0.3

# Measured on 9,404 chats with Llama-2's tokenizer: the quantiles, and at 1 what makes the mean the measured
# one (6.50 turns, 94.7 and 334.8 tokens). 30.7 % of the chats have one turn only.
_TURNS = Quantiles({0: 1, 0.306: 1, 0.307: 1.5, 0.5: 3, 0.75: 7, 0.9: 14, 0.95: 22, 0.99: 56, 1: 98})
_QUESTION = Quantiles({0: 1, 0.05: 3, 0.25: 10, 0.5: 20, 0.75: 48, 0.9: 154, 0.95: 386, 0.99: 1409, 1: 3767})
_ANSWER = Quantiles(
    {0: 1, 0.05: 26, 0.25: 154, 0.5: 297, 0.75: 450, 0.9: 670, 0.95: 829, 0.99: 1008, 1: 2566}
)

Lengths = Iterable[tuple[float, float]]
"""Question and answer of each turn."""


@dataclass(frozen=True, kw_only=True)
class ShareGptSettings(Settings):
    max_context: int | None = PAPER_CONTEXT


class _Lengths(Struct):
    turns: list[tuple[reading.Count, reading.Count]]


class _Message(Struct):
    value: str
    speaker: str = field(name="from")


class _Chat(Struct):
    conversations: list[_Message]


def sharegpt(settings: ShareGptSettings) -> Workload:
    """Chats with the lengths of ShareGPT's."""
    chats = ((f"sharegpt-{n}", _chat(Random(f"{settings.seed} chat {n}"))) for n in count())
    return generate("sharegpt", settings, _drafts(settings, chats))


def _chat(rng: Random) -> Iterator[tuple[float, float]]:
    turns = round(_TURNS.draw(rng))
    questions, answers = CorrelatedDraws(rng, _LIKENESS), CorrelatedDraws(rng, _LIKENESS)
    for _ in range(turns):
        yield questions.draw(_QUESTION), answers.draw(_ANSWER)


def sharegpt_lengths(path: Path, settings: ShareGptSettings) -> Workload:
    """Chats of given lengths: lines of {"turns": [[question, answer], ...]}, in tokens."""
    lines = enumerate(reading.json_lines(path, _Lengths))
    chats = ((f"sharegpt-{n}", line.turns) for n, (_, line) in lines)
    return assemble(f"sharegpt ({path.name})", settings, _drafts(settings, chats))


def sharegpt_texts(path: Path, settings: ShareGptSettings, tokenizer: TextEncoder) -> Workload:
    """Chats of ShareGPT_V3: a JSON list of {"conversations": [{"from": "human" or "gpt", "value"}]}.

    What a person says before an answer is one turn; what no answer follows is left out. A scaled message is
    cut short, and then its turn has no text.
    """
    drafts = _text_drafts(settings, tokenizer, reading.json_entries(path, _Chat))
    return assemble(f"sharegpt ({path.name})", settings, drafts)


def _drafts(settings: Settings, chats: Iterable[tuple[str, Lengths]]) -> Iterator[Draft]:
    tokens, scaled = TokenSource(settings.seed, settings.vocabulary), Scaler(settings.scale)

    def turns(name: str, lengths: Lengths) -> Iterator[WorkloadTurn]:
        for n, (question, answer) in enumerate(lengths):
            yield WorkloadTurn(tokens(f"{name} {n}", scaled("question", question)), scaled("answer", answer))

    return (Draft(name, turns(name, lengths)) for name, lengths in chats)


def _text_drafts(
    settings: Settings, tokenizer: TextEncoder, chats: Iterable[tuple[str, _Chat]]
) -> Iterator[Draft]:
    scaled = Scaler(settings.scale)

    def turns(where: str, chat: _Chat) -> Iterator[WorkloadTurn]:
        for question, answer in _exchanges(where, chat):
            tokens = tokenizer.encode(question)
            kept = tokens[: scaled("question", len(tokens))]
            length = scaled("answer", len(tokenizer.encode(answer)))
            if kept:
                yield WorkloadTurn(tuple(kept), length, question if len(kept) == len(tokens) else None)

    return (Draft(f"sharegpt-{n}", turns(where, chat)) for n, (where, chat) in enumerate(chats))


def _exchanges(where: str, chat: _Chat) -> Iterator[tuple[str, str]]:
    said: list[str] = []
    for message in chat.conversations:
        if message.speaker in _PERSON:
            said.append(message.value)
        elif message.speaker not in _MODEL:
            raise refused(where, "from", message.speaker, f"expected one of {sorted(_PERSON | _MODEL)}")
        elif said:
            yield "\n".join(said), message.value
            said = []
