"""Whether KV is kept where it should be, and can be fetched."""

from collections.abc import Iterator

from mempool.caching_mode import CachingMode
from sglang_memserve.doctor.evidence import Evidence, InstanceEvidence, dict_of, list_of
from sglang_memserve.doctor.finding import Finding, note, wrong


def modes(evidence: Evidence) -> Iterator[Finding]:
    modes = {
        instance: instance.memserve["caching"]
        for instance in evidence.instances
        if "caching" in instance.memserve
    }
    if len(set(map(str, modes.values()))) < 2:
        return
    words = ", ".join(f"{instance} has --memserve-caching {mode}" for instance, mode in modes.items())
    do = "start all with the same --memserve-caching"
    by_role = {(instance.role, str(mode)) for instance, mode in modes.items()}
    if {("decode", CachingMode.WRITE_BACK), ("prefill", CachingMode.BASIC)} <= by_role:
        yield wrong("caching", f"{words}: prefill with basic keeps nothing that decode sends back", do)
    else:
        yield note("caching", words, do)


def trees(evidence: Evidence) -> Iterator[Finding]:
    for instance in evidence.instances:
        if instance.info.get("disable_radix_cache") is not True:
            continue
        mode = instance.memserve.get("caching")
        if str(mode) in set(CachingMode) and CachingMode(str(mode)).keeps_kv(instance.role):
            words = f"{instance} has no radix cache, so it keeps nothing, whatever --memserve-caching says"
            yield wrong("radix cache", words, "start it without --disable-radix-cache")
        elif not instance.memserve:
            words = f"{instance} has no radix cache: it receives or computes every prompt from the start"
            yield note("radix cache", words, _FLAG.get(instance.role, "leave out --disable-radix-cache"))


_FLAG = {"decode": "stock SGLang needs --disaggregation-decode-enable-radix-cache on decode instances"}


def members(evidence: Evidence) -> Iterator[Finding]:
    """Instances that share a registry know each other, and KV can be fetched from one by another."""
    agents = {
        str(name): instance for instance in evidence.instances if (name := instance.counters.get("instance"))
    }
    if len(agents) < 2:
        return
    with_registry = {name: instance for name, instance in agents.items() if _registries(instance)}
    if not with_registry:
        words = f"{len(agents)} instances have no registry: none fetches a prefix that another one has"
        yield note("MemPool", words, _REGISTRY)
        return
    for name, instance in agents.items():
        if name not in with_registry:
            yield wrong("MemPool", f"{instance} has no registry, others have", _REGISTRY)
            continue
        peers = {other for other, its in with_registry.items() if _registries(its) & _registries(instance)}
        unknown = sorted(peers - {name} - set(map(str, list_of(instance.counters.get("peers")))))
        if peers == {name}:
            own = ", ".join(sorted(_registries(instance)))
            words = f"{instance} has a registry that no other instance has: {own}"
            yield wrong("MemPool", words, "give all the same --memserve-registries")
        elif unknown and "peers" in instance.counters:
            yield wrong(
                "MemPool",
                f"{instance} does not know {', '.join(unknown)}",
                "see whether it reaches the registry, and whether its log says that it was refused there: "
                "model, KV dtype and page size must be the same",
            )


def feeds(evidence: Evidence) -> Iterator[Finding]:
    """The feeds of cache events that the router follows."""
    for instance in evidence.instances:
        troubles = {medium: dict_of(feed).get("trouble") for medium, feed in instance.feeds.items()}
        medium = next((medium for medium, trouble in troubles.items() if trouble), None)
        if instance.worker.get("healthy") and medium:
            yield wrong(
                "feeds",
                f"the router gets no cache events of {instance} in {medium.upper()}: {troubles[medium]}",
                "check that the router's machine reaches the feed's address (memserve.feed in /server_info)",
            )


_REGISTRY = "give all the same --memserve-registries (memserve registry --bind tcp://HOST:PORT)"


def _registries(instance: InstanceEvidence) -> set[str]:
    return set(map(str, list_of(instance.memserve.get("registries"))))
