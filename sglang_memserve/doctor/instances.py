"""Whether instances are there, and are what they were given as."""

from collections.abc import Iterator

from sglang_memserve.doctor.evidence import Evidence
from sglang_memserve.doctor.finding import Finding, wrong


def up(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.instances:
        yield wrong(
            "instances", "the router knows of none", "give it --prefill and --decode, or --worker-urls"
        )
    if evidence.trouble:
        yield wrong(
            "instances", evidence.trouble, "look which instance hangs: `memserve status`, and its log"
        )
    for one in evidence.instances:
        if not one.worker.get("healthy"):
            trouble = one.worker.get("trouble") or "the router gives no reason"
            yield wrong("instances", f"{one} is down: {trouble}", "start it, or look into its log")
        elif not one.info and not evidence.trouble:
            yield wrong(
                "instances",
                f"{one} is up, but gives no /server_info",
                "see whether it is an SGLang server and the router's --worker-api-key is its key",
            )


def roles(evidence: Evidence) -> Iterator[Finding]:
    for one in evidence.instances:
        mode = one.info.get("disaggregation_mode")
        runs_as = "colocated" if mode == "null" else mode
        if isinstance(runs_as, str) and runs_as != one.role:
            yield wrong(
                "roles",
                f"{one} runs as {runs_as}",
                f"start it with --disaggregation-mode {'null' if one.role == 'colocated' else one.role}, "
                "or give its URL to the router as what it is",
            )


def both_halves(evidence: Evidence) -> Iterator[Finding]:
    """A pair needs either half to know the other's way of moving KV."""
    split = [*evidence.of("prefill"), *evidence.of("decode")]
    told = {one: one.info.get("disaggregation_transfer_backend") for one in split}
    backends = {one: str(backend) for one, backend in told.items() if backend is not None}
    if len(set(backends.values())) > 1:
        words = ", ".join(f"{one} has {backend}" for one, backend in backends.items())
        yield wrong("transfer backend", words, "start all with the same --disaggregation-transfer-backend")
