"""Whether the router counts prompts as the engines do, and knows what they cache."""

from collections.abc import Iterator
from typing import Any

from sglang_memserve.doctor.evidence import Evidence, count_of, dict_of, list_of
from sglang_memserve.doctor.finding import Finding, note, wrong

# Fewer prompts prove nothing.
_MIN_PROMPTS = 20
_MAX_DIFFERENT = 0.01
_MAX_UNTOKENISED = 0.1
_MAX_MISSED = 0.25
# Reasons that are no fault.
_NOT_TOKENISABLE = ("batch", "endpoint", "no prompt", "no ids", "media", "continue_final_message")
_TOKENIZER = "give it --tokenizer: a folder, or a name in its Hugging Face cache, of the instances' model"


def tokenizer(evidence: Evidence) -> Iterator[Finding]:
    loaded = dict_of(evidence.routing.get("tokenizer"))
    if evidence.routing.get("needs_tokens") is True and not loaded.get("loaded"):
        words = "the router has none, so its policy goes by text"
        yield wrong("router's tokenizer", words, _TOKENIZER)
    if unlike := list_of(loaded.get("unlike")):
        words = f"the router's ({loaded.get('loaded')}), or its chat template, differs from that of "
        yield wrong("router's tokenizer", words + ", ".join(map(str, unlike)), _TOKENIZER)


def parity(evidence: Evidence) -> Iterator[Finding]:
    counts = dict_of(evidence.routing.get("answers"))
    equal, different = (count_of(counts.get(f"prompt_tokens_{name}")) for name in ("equal", "different"))
    if different and different > _MAX_DIFFERENT * (equal + different):
        yield wrong(
            "token parity",
            f"of {_share(different, equal + different)} of the prompts the engines counted other tokens",
            "compare router's --tokenizer and instances' --chat-template: such prefixes are not found",
        )


def fallbacks(evidence: Evidence) -> Iterator[Finding]:
    counts = {name: count_of(n) for name, n in dict_of(evidence.routing.get("tokenising")).items()}
    total = sum(counts.values())
    reasons = {name: n for name, n in counts.items() if name not in ("tokenised", *_NOT_TOKENISABLE)}
    untokenised = sum(reasons.values())
    if total >= _MIN_PROMPTS and untokenised > _MAX_UNTOKENISED * total:
        share = _share(untokenised, total)
        words = f"{share} of the prompts were routed without their tokens: {_by_count(reasons)}"
        yield wrong("fallbacks", words, "docs/reference/routing.md, Tokens, says what each reason means")


def predictions(evidence: Evidence) -> Iterator[Finding]:
    counts = {name: count_of(n) for name, n in dict_of(evidence.routing.get("prediction_outcomes")).items()}
    total = sum(counts.values())
    less = {name: n for name, n in counts.items() if name.startswith("less")}
    if total >= _MIN_PROMPTS and sum(less.values()) > _MAX_MISSED * total:
        words = f"{_share(sum(less.values()), total)} of the prompts found less cached than predicted: "
        yield note(
            "predictions", words + _by_count(less), "if they were evicted: lower --tree-ttl, or add DRAM"
        )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} % ({part} of {whole})"


def _by_count(counts: dict[str, Any]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} ({count})" for name, count in ordered if count)
