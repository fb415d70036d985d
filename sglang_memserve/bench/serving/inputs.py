"""The workloads of a benchmark, made by its options."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from sglang_memserve.bench.serving.options import BenchOptions, Load
from sglang_memserve.bench.workloads import named as workloads
from sglang_memserve.bench.workloads.errors import WorkloadError
from sglang_memserve.bench.workloads.form import Workload, WorkloadSession, WorkloadTurn
from sglang_memserve.cluster.errors import UsageError


class TextTokenizer(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


def check(options: BenchOptions) -> None:
    """Raises UsageError for an unknown workload, or an option that it does not take."""
    try:
        known = workloads.option_names(options.workload)
    except WorkloadError as error:
        raise UsageError(str(error)) from error
    if unknown := [name for name, _ in options.more if name not in known]:
        raise UsageError(f"--option {unknown[0]}: {options.workload} takes {', '.join(known)}")


def make(options: BenchOptions, load: Load, model: Path | None) -> dict[float | None, Workload]:
    """By rate, the same sessions at each. Raises UsageError if they cannot be made.

    The tokenizer is that of the options, or else that of `model` where the folder has one.
    """
    own = str(model) if model and (model / "tokenizer.json").is_file() else None
    chosen = options.tokenizer or own
    needed = options.traces is not None or options.api != "generate"
    tokenizer = read_tokenizer(chosen) if chosen and needed else None

    def at(rate: float | None, load: Load) -> Workload:
        return workloads.workload(options.workload, options.settings(rate, load), options.traces, tokenizer)

    try:
        if all(len(session.turns) == 1 for session in at(load.rate, load).sessions):
            load = load.of_single_turns()
        made = {rate: at(rate, load) for rate in options.rates or (load.rate,)}
    except (WorkloadError, TypeError) as error:
        raise UsageError(str(error)) from error
    if options.api == "generate":
        return made
    return {rate: in_text(workload, tokenizer) for rate, workload in made.items()}


def in_text(workload: Workload, tokenizer: TextTokenizer | None) -> Workload:
    """Adds a text to every turn without one, decoded from its tokens. Servers may tokenise it otherwise."""
    if all(turn.text is not None for session in workload.sessions for turn in session.turns):
        return workload
    if tokenizer is None:
        raise UsageError(
            f"{workload.name} is made of token ids, and --api asks by text: name the model with --tokenizer"
        )
    return replace(workload, sessions=tuple(_with_texts(session, tokenizer) for session in workload.sessions))


def _with_texts(session: WorkloadSession, tokenizer: TextTokenizer) -> WorkloadSession:
    def with_text(turn: WorkloadTurn) -> WorkloadTurn:
        return turn if turn.text is not None else replace(turn, text=tokenizer.decode(list(turn.tokens)))

    return replace(session, turns=tuple(map(with_text, session.turns)))


def read_tokenizer(name: str) -> TextTokenizer:
    """The tokenizer of a model's folder (tokenizer.json), loaded without torch. Raises UsageError."""
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
