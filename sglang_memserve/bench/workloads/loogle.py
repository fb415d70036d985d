"""LooGLE: long documents, each asked about in several short questions with short answers."""

import ast
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from msgspec import Struct

from sglang_memserve.bench.workloads import reading
from sglang_memserve.bench.workloads.assemble import Draft, assemble, cut_turn, generate
from sglang_memserve.bench.workloads.errors import WorkloadError, refused
from sglang_memserve.bench.workloads.form import Workload, WorkloadTurn
from sglang_memserve.bench.workloads.lengths import Scaler
from sglang_memserve.bench.workloads.settings import PAPER_CONTEXT, Settings
from sglang_memserve.bench.workloads.tokens import TextEncoder, TokenSource

# Of the normal distributions of the logarithms: mean and deviation.
_QUESTION = (3.0, 0.5)
_ANSWER = (3.0, 0.8)


@dataclass(frozen=True, kw_only=True)
class LoogleSettings(Settings):
    """Each question is a session of one turn, which begins with its document; or with `in_turn` a user's
    questions about a document are one session, asked one after the other's answer.

    `document`: fewest and most tokens of a document. A document is cut to a length drawn evenly from these:
    the model of the paper could not have read LooGLE's whole ones, of 13,000 tokens and more.
    `questions`: fewest and most about a document that is made up. `open_documents`: so many are asked about
    at a time, in random order; a document is opened when another has nobody left to ask. `share_ratio`: how
    many users ask each question.
    """

    max_context: int | None = PAPER_CONTEXT
    document: tuple[int, int] = (2600, 3800)
    questions: tuple[int, int] = (2, 8)
    open_documents: int = 8
    share_ratio: int = 1
    in_turn: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("document", "questions"):
            low, high = getattr(self, name)
            self._require(name, 1 <= low <= high, "expected two numbers, the lower one first")
        self._require("open_documents", self.open_documents >= 1, "expected at least 1")
        self._require("share_ratio", self.share_ratio >= 1, "expected at least 1")


class _Document(NamedTuple):
    """`questions`: each one's tokens and the length of its answer."""

    name: str
    tokens: tuple[int, ...]
    questions: Sequence[tuple[tuple[int, ...], int]]


class _Pair(Struct):
    Q: str
    A: str


class _DocumentLine(Struct):
    input: str
    qa_pairs: str | list[_Pair]


def loogle(settings: LoogleSettings) -> Workload:
    """Documents cut to fit the paper's model, with questions of LooGLE's lengths."""
    tokens, scaled = TokenSource(settings.seed, settings.vocabulary), Scaler(settings.scale)

    def document(n: int) -> _Document:
        rng, name = Random(f"{settings.seed} document {n}"), f"loogle-{n}"
        length = scaled("document", rng.uniform(*settings.document))
        questions = [
            (
                tokens(f"{name} {k}", scaled("question", rng.lognormvariate(*_QUESTION))),
                scaled("answer", rng.lognormvariate(*_ANSWER)),
            )
            for k in range(rng.randint(*settings.questions))
        ]
        return _Document(name, tokens(name, length), questions)

    return generate("loogle", settings, _drafts(settings, map(document, count())))


def loogle_texts(path: Path, settings: LoogleSettings, tokenizer: TextEncoder) -> Workload:
    """LooGLE's own questions: lines of {"input": document, "qa_pairs": [{"Q", "A"}, ...] or that as text}.

    A document's tokens end where its length is cut, so its turns have no text.
    """
    scaled, rng = Scaler(settings.scale), Random(f"{settings.seed} documents")

    def encoded(kind: str, text: str, at_most: float = math.inf) -> tuple[int, ...]:
        tokens = tokenizer.encode(text)
        return tuple(tokens[: scaled(kind, min(at_most, len(tokens)))])

    def document(n: int, where: str, line: _DocumentLine) -> _Document:
        length = rng.uniform(*settings.document)
        questions = [
            (encoded("question", pair.Q), scaled("answer", len(tokenizer.encode(pair.A))))
            for pair in _pairs(where, line.qa_pairs)
        ]
        return _Document(f"loogle-{n}", encoded("document", line.input, length), questions)

    lines = enumerate(reading.json_lines(path, _DocumentLine))
    documents = (document(n, where, line) for n, (where, line) in lines)
    return assemble(f"loogle ({path.name})", settings, _drafts(settings, documents))


def _drafts(settings: LoogleSettings, documents: Iterable[_Document]) -> Iterator[Draft]:
    """As many as asked for, or a few more: all questions of the documents that it takes."""
    rng = Random(f"{settings.seed} order")
    unread = (_readings(settings, document) for document in _enough(settings, documents))
    opened = list(islice(unread, settings.open_documents))
    while opened:
        pick = rng.randrange(len(opened))
        draft = next(opened[pick], None)
        if draft is not None:
            yield draft
        elif (following := next(unread, None)) is not None:
            opened[pick] = following
        else:
            del opened[pick]


def _enough(settings: LoogleSettings, documents: Iterable[_Document]) -> Iterator[_Document]:
    asked = 0
    for document in documents:
        yield document
        asked += settings.share_ratio * (1 if settings.in_turn else len(document.questions))
        if settings.sessions is not None and asked >= settings.sessions:
            return


def _readings(settings: LoogleSettings, document: _Document) -> Iterator[Draft]:
    if settings.in_turn:
        asked = enumerate(document.questions)
        turns = [
            WorkloadTurn((() if n else document.tokens) + question, answer) for n, (question, answer) in asked
        ]
        yield from (Draft(f"{document.name}-{user}", turns) for user in range(settings.share_ratio))
        return
    for n, (question, answer) in enumerate(document.questions):
        tokens = document.tokens + question
        turn = cut_turn(settings, tokens, answer)
        for user in range(settings.share_ratio):
            yield Draft(f"{document.name}-{n}" + (f"-{user}" if user else ""), [turn])


def _pairs(where: str, pairs: str | list[_Pair]) -> list[_Pair]:
    if not isinstance(pairs, str):
        return pairs
    try:
        return reading.checked(f"{where}, qa_pairs", ast.literal_eval(pairs), list[_Pair])
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        if isinstance(error, WorkloadError):
            raise
        raise refused(where, "qa_pairs", pairs, "expected a list of questions and answers") from None
