"""Whether KV is kept where it should be, and can get there."""

from collections.abc import Iterator

from mempool.caching_mode import CachingMode
from sglang_memserve.doctor.evidence import Evidence, Told, dict_of, list_of
from sglang_memserve.doctor.finding import Finding, note, wrong


def _mode(instance: Told) -> CachingMode | None:
    """None where the instance says none, or one that this version does not know."""
    mode = instance.memserve.get("caching")
    return CachingMode(mode) if mode in list(CachingMode) else None


def modes(evidence: Evidence) -> Iterator[Finding]:
    told = {one: one.memserve["caching"] for one in evidence.instances if "caching" in one.memserve}
    if len(set(map(str, told.values()))) < 2:
        return
    words = ", ".join(f"{one} has --memserve-caching {mode}" for one, mode in told.items())
    do = "start all with the same --memserve-caching"
    modes = {one: _mode(one) for one in told}
    sent_to_nobody = any(
        one.role == "decode" and mode is CachingMode.WRITE_BACK for one, mode in modes.items()
    ) and any(one.role == "prefill" and mode is CachingMode.BASIC for one, mode in modes.items())
    if sent_to_nobody:
        yield wrong("caching", f"{words}: prefill with basic keeps nothing of what decode sends back", do)
    else:
        yield note("caching", words, do)


def trees(evidence: Evidence) -> Iterator[Finding]:
    for one in evidence.instances:
        if one.info.get("disable_radix_cache") is not True:
            continue
        mode = _mode(one)
        if mode is not None and mode.keeps_kv(one.role):
            words = f"{one} has no radix cache, so it keeps nothing, whatever --memserve-caching says"
            yield wrong("radix cache", words, "start it without --disable-radix-cache")
        elif not one.memserve:
            words = f"{one} has no radix cache: it is sent, or computes, every prompt from the start"
            yield note("radix cache", words, _FLAG.get(one.role, "leave out --disable-radix-cache"))


_FLAG = {"decode": "stock SGLang wants --disaggregation-decode-enable-radix-cache there"}


def members(evidence: Evidence) -> Iterator[Finding]:
    """Instances that share a registry know each other, and KV can be fetched from one by another."""
    agents = {str(name): one for one in evidence.instances if (name := one.counters.get("instance"))}
    if len(agents) < 2:
        return
    with_registry = {name: one for name, one in agents.items() if _registries(one)}
    if not with_registry:
        words = f"{len(agents)} instances have no registry: none fetches a prefix that another one has"
        yield note("MemPool", words, _REGISTRY)
        return
    for name, one in agents.items():
        if name not in with_registry:
            yield wrong("MemPool", f"{one} has no registry, others have", _REGISTRY)
            continue
        peers = {other for other, its in with_registry.items() if _registries(its) & _registries(one)}
        unknown = sorted(peers - {name} - set(map(str, list_of(one.counters.get("peers")))))
        if peers == {name}:
            words = f"{one} has a registry that nobody else has: {', '.join(sorted(_registries(one)))}"
            yield wrong("MemPool", words, "give all the same --memserve-registries")
        elif unknown and "peers" in one.counters:
            yield wrong(
                "MemPool",
                f"{one} does not know {', '.join(unknown)}",
                "see whether it reaches the registry, and whether its log says that it was refused there: "
                "model, KV dtype and page size must be the same",
            )


def feeds(evidence: Evidence) -> Iterator[Finding]:
    """Of those whose changes the router follows, if it tells."""
    for one in evidence.instances:
        troubles = {medium: dict_of(feed).get("trouble") for medium, feed in one.feeds.items()}
        medium = next((medium for medium, trouble in troubles.items() if trouble), None)
        if one.worker.get("healthy") and medium:
            yield wrong(
                "feeds",
                f"the router does not hear what {one} has in {medium.upper()}: {troubles[medium]}",
                "see whether the router's machine reaches the feed's address, which /server_info tells",
            )


_REGISTRY = "give all the same --memserve-registries (python -m mempool.membership.registry --bind ...)"


def _registries(one: Told) -> set[str]:
    return set(map(str, list_of(one.memserve.get("registries"))))
