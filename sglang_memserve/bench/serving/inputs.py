"""The workloads of a benchmark, as its options say."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from sglang_memserve.bench.serving.options import Load, Options
from sglang_memserve.bench.workloads.errors import WorkloadError
from sglang_memserve.bench.workloads.form import Session, Turn, Workload
from sglang_memserve.bench.workloads.named import option_names, workload
from sglang_memserve.cluster.errors import UsageError


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


def check(options: Options) -> None:
    """Raises UsageError for a workload that there is not, or an option that it does not take."""
    try:
        known = option_names(options.workload)
    except WorkloadError as error:
        raise UsageError(str(error)) from error
    if unknown := [name for name, _ in options.more if name not in known]:
        raise UsageError(f"--option {unknown[0]}: {options.workload} takes {', '.join(known)}")


def make(options: Options, load: Load, model: Path | None) -> dict[float | None, Workload]:
    """By rate: the same sessions at each. Raises UsageError for what cannot be made.

    The tokenizer is the one that was named, else that of `model` if it is a folder that has one, else none.
    """
    own = str(model) if model and (model / "tokenizer.json").is_file() else None
    named = options.tokenizer or own
    needed = options.traces is not None or options.api != "generate"
    tokenizer = read_tokenizer(named) if named and needed else None

    def at(rate: float | None, load: Load) -> Workload:
        return workload(options.workload, options.settings(rate, load), options.traces, tokenizer)

    try:
        if all(len(session.turns) == 1 for session in at(load.rate, load).sessions):
            load = load.of_single_turns()
        made = {rate: at(rate, load) for rate in options.rates or (load.rate,)}
    except (WorkloadError, TypeError) as error:
        raise UsageError(str(error)) from error
    if options.api == "generate":
        return made
    return {rate: in_text(one, tokenizer) for rate, one in made.items()}


def in_text(one: Workload, tokenizer: Tokenizer | None) -> Workload:
    """With a text for every turn: of its tokens where the source has none; a server may read other tokens."""
    if all(turn.text is not None for session in one.sessions for turn in session.turns):
        return one
    if tokenizer is None:
        raise UsageError(
            f"{one.name} is made of token ids, and --api asks by text: name the model with --tokenizer"
        )
    return replace(one, sessions=tuple(_spoken(session, tokenizer) for session in one.sessions))


def _spoken(session: Session, tokenizer: Tokenizer) -> Session:
    def spoken(turn: Turn) -> Turn:
        return turn if turn.text is not None else replace(turn, text=tokenizer.decode(list(turn.tokens)))

    return replace(session, turns=tuple(map(spoken, session.turns)))


def read_tokenizer(name: str) -> Tokenizer:
    """That of a model's folder (its tokenizer.json), without torch. Raises UsageError."""
    file = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
    try:
        from tokenizers import Tokenizer as Rust

        return _Rust(Rust.from_file(str(file)))
    except ImportError:
        raise UsageError("text needs a tokenizer: pip install tokenizers") from None
    except Exception as error:  # the library raises no kind of its own
        raise UsageError(f"--tokenizer {name}: {file} cannot be read: {error}") from error


class _Rust:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids))
