"""What an instance can be told beside SGLang's flags. Defaults are stated here and nowhere else."""

import difflib
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, fields

from mempool.membership.messages import check_endpoint
from mempool.tiers.sizes import bytes_of_size

CACHING = ("basic", "1", "2", "3")
# Of `mempool.transfer.cut.Mode`, which imports torch.
TRANSFER = ("aggregated", "by-layer", "by-request")
# What a receiver answers to is 2 MiB, and it is taken for dead after 10 s without an answer.
_LEAST_BANDWIDTH = 1 << 20
_HELP = """MemServe's flags (each also as MEMSERVE_CACHING and so on; a flag wins):
  --memserve-caching {basic,1,2,3}
                        of a prefill or decode instance: basic keeps no KV; 1: prefill keeps what it computed;
                        2: decode too, and is sent only what it lacks; 3: decode also sends the answer's KV
                        back to prefill, where the next turn finds it (default: 3)
  --memserve-dram SIZE  host memory for KV of requests that ended, from where it comes back when it has left
                        the device: "8GiB", "10%" of what is free, "4096 blocks", or 0 for none
                        (default: 2% on a GPU host, 256MiB elsewhere)
  --memserve-transfer {aggregated,by-layer,by-request}
                        how prefill sends KV to decode: aggregated: all layers of a block together; by-layer:
                        each layer while the next one computes; by-request: a message for each layer of each
                        block, which is there to be measured (default: aggregated)
  --memserve-max-bandwidth SIZE
                        KV that is sent to each other instance in a second, at most: "100MiB", or 0 for no
                        bound (Linux only; default: 0)
  --memserve-registries URL[,URL]
                        registries (python -m mempool.membership.registry) by which instances know each other,
                        to fetch prefixes from one another (default: none)
"""


class OptionError(ValueError):
    pass


@dataclass(frozen=True)
class InstanceOptions:
    """`caching`: one of CACHING; `dram`: as `mempool.tiers.sizes.blocks_of_size` takes it, "0" for none, or
    nothing, which leaves it to `dram_beside`.

    `registries`: endpoints, with commas between them. `transfer`: one of TRANSFER. `max_bandwidth`: bytes, as
    `bytes_of_size` takes them, "0" for no bound.
    """

    caching: str = "3"
    dram: str = ""
    registries: str = ""
    transfer: str = "aggregated"
    max_bandwidth: str = "0"

    def __post_init__(self) -> None:
        if self.caching not in CACHING:
            raise OptionError(f"--memserve-caching {self.caching}: choose from {', '.join(CACHING)}")
        if self.transfer not in TRANSFER:
            raise OptionError(f"--memserve-transfer {self.transfer}: choose from {', '.join(TRANSFER)}")
        for endpoint in self.all_registries:
            try:
                check_endpoint(endpoint)
            except ValueError as error:
                raise OptionError(f"--memserve-registries: {error}") from None
        if self.max_bytes_per_second and self.max_bytes_per_second < _LEAST_BANDWIDTH:
            raise OptionError(f"--memserve-max-bandwidth {self.max_bandwidth}: give at least 1MiB, or 0")

    def dram_beside(self, device: str) -> str:
        """The size where KV is on a torch device of this type."""
        return self.dram or {"cuda": "2%"}.get(device, "256MiB")

    @property
    def max_bytes_per_second(self) -> int:
        """0: no bound. Raises OptionError."""
        try:
            return bytes_of_size(self.max_bandwidth)
        except ValueError as error:
            raise OptionError(f"--memserve-max-bandwidth: {error}") from None

    @property
    def all_registries(self) -> list[str]:
        return [endpoint.strip() for endpoint in self.registries.split(",") if endpoint.strip()]

    @classmethod
    def from_environment(cls) -> "InstanceOptions":
        """As `publish` left them, for the processes that SGLang spawns. Raises OptionError."""
        names = {field.name: _variable(field.name) for field in fields(cls)}
        return cls(**{name: os.environ[found] for name, found in names.items() if os.environ.get(found)})

    def publish(self, environ: MutableMapping[str, str]) -> None:
        for field in fields(self):
            environ[_variable(field.name)] = getattr(self, field.name)


def take(argv: list[str]) -> tuple[InstanceOptions, list[str]]:
    """The options of a command line and of the environment; what is left for SGLang. Raises OptionError."""
    given: dict[str, str] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--memserve-"):
            rest.append(word)
            continue
        name = flag.removeprefix("--memserve-").replace("-", "_")
        if name not in {field.name for field in fields(InstanceOptions)}:
            raise OptionError(f"{flag}: there is no such flag{_near(flag)}")
        found = value if equals else next(words, None)
        if not found or found.startswith("--"):
            raise OptionError(f"{flag} needs a value: --help lists MemServe's flags")
        given[name] = found
    environment = InstanceOptions.from_environment()
    return InstanceOptions(**{**environment.__dict__, **given}), rest


def flag_names() -> list[str]:
    return [f"--memserve-{field.name.replace('_', '-')}" for field in fields(InstanceOptions)]


def variables() -> list[str]:
    """The environment variables that instances read their options from."""
    return [_variable(field.name) for field in fields(InstanceOptions)]


def help_text() -> str:
    return _HELP


def check_variables(environ: Mapping[str, str]) -> None:
    """Raises OptionError for a variable that is almost an option's. `memserve` knows all others too."""
    for name in environ:
        if name.startswith("MEMSERVE_") and name not in variables():
            near = difflib.get_close_matches(name, variables(), n=1, cutoff=0.85)
            if near:
                raise OptionError(f"{name} is set, and no option has that name: did you mean {near[0]}?")


def _near(flag: str) -> str:
    near = difflib.get_close_matches(flag, flag_names(), n=1, cutoff=0.7)
    return f": did you mean {near[0]}?" if near else ", it has " + ", ".join(flag_names())


def _variable(name: str) -> str:
    return f"MEMSERVE_{name.upper()}"
