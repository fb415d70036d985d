"""Whether instances are up, and run in the role that the router has for them."""

from collections.abc import Iterator

from sglang_memserve.doctor.evidence import Evidence
from sglang_memserve.doctor.finding import Finding, wrong


def up(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.instances:
        yield wrong("instances", "the router has none", "give it --prefill and --decode, or --worker-urls")
    if evidence.trouble:
        yield wrong(
            "instances", evidence.trouble, "find the instance that hangs: `memserve status`, and its log"
        )
    for instance in evidence.instances:
        if not instance.worker.get("healthy"):
            trouble = instance.worker.get("trouble") or "the router gives no reason"
            yield wrong("instances", f"{instance} is down: {trouble}", "start it, or read its log")
        elif not instance.info and not evidence.trouble:
            yield wrong(
                "instances",
                f"{instance} is up, but gives no /server_info",
                "see whether it is an SGLang server and the router's --worker-api-key is its key",
            )


def roles(evidence: Evidence) -> Iterator[Finding]:
    for instance in evidence.instances:
        mode = instance.info.get("disaggregation_mode")
        runs_as = "colocated" if mode == "null" else mode
        if isinstance(runs_as, str) and runs_as != instance.role:
            needed = "null" if instance.role == "colocated" else instance.role
            yield wrong(
                "roles",
                f"{instance} runs as {runs_as}",
                f"start it with --disaggregation-mode {needed}, or give its URL to the router in that role",
            )


def both_halves(evidence: Evidence) -> Iterator[Finding]:
    """Both halves of a pair must move KV by the same backend."""
    split = [*evidence.of("prefill"), *evidence.of("decode")]
    reported = {instance: instance.info.get("disaggregation_transfer_backend") for instance in split}
    backends = {instance: str(backend) for instance, backend in reported.items() if backend is not None}
    if len(set(backends.values())) > 1:
        words = ", ".join(f"{instance} has {backend}" for instance, backend in backends.items())
        yield wrong("transfer backend", words, "start all with the same --disaggregation-transfer-backend")
