"""Messages between an instance and a registry: typed msgpack, one ZeroMQ frame each. Imports no torch.

instance to registry        registry to instance
--------------------        --------------------
Join                        Snapshot (pages, the last is `done`) or Refusal
Beat                        Heard or Refusal
Leave
                            Changed, to every member

`seq` counts the changes of one registry: a member that sees a gap joins again, which is answered with a
snapshot and changes nothing. Beat and Leave count on a connection that has joined as that member, and on no
other.
"""

import re
import secrets
from enum import StrEnum
from typing import Annotated

import msgspec

from mempool import wire
from mempool.endpoints import MAX_FABRICS, check_endpoint
from mempool.errors import NamespaceMismatch
from mempool.layout import BlockLayout

# A page of a snapshot has to fit into a frame.
MAX_INFO_BYTES = 4096
PAGE_INFOS = 48
MAX_JOIN_BYTES = MAX_INFO_BYTES + 256

_MAX_DIGESTS = 16
_LARGEST = 2**63 - 1
_NAME = re.compile(r"[!-~]{1,128}")
_DIGEST = re.compile(r"[ -~]{0,256}")

Incarnation = Annotated[int, msgspec.Meta(ge=1, le=_LARGEST)]
Seq = Annotated[int, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Text = Annotated[str, msgspec.Meta(max_length=512)]
ProcessSecret = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


def new_incarnation() -> int:
    """A number that no start had before, and that says nothing else.

    It is random: a clock may be wrong, and of two numbers that instances choose the greater is not the newer.
    """
    return secrets.randbelow(_LARGEST) + 1


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance publishes about itself. Raises ValueError for values out of bounds.

    Attributes:
        instance: The name of the instance.
        incarnation: A number that is new at every start of the instance.
        role: "prefill", "decode" or "colocated".
        layout: The layout of its blocks.
        namespace: Named digests of everything that decides what the bytes of a block mean.
        control: The endpoint for requests.
        data: The endpoint for blocks, which every instance can use.
        fabrics: Endpoints for the same over other fabrics, best first. Who can use one prefers it to `data`.
    """

    instance: str
    incarnation: int
    role: str
    layout: BlockLayout
    namespace: dict[str, str]
    control: str
    data: str
    fabrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.instance, self.role, self.layout.kind, self.layout.dtype, *self.namespace):
            _require(_NAME.fullmatch(name), f"a name of 1 to 128 printable characters, not {name!r:.300}")
        for digest in self.namespace.values():
            _require(_DIGEST.fullmatch(digest), f"a digest of up to 256 characters, not {digest!r:.300}")
        for number in (self.incarnation, *_numbers(self.layout)):
            _require(0 <= number <= _LARGEST, f"a number from 0 to 2**63 - 1, not {number}")
        _require(self.incarnation, "an incarnation of at least 1")
        _require(len(self.namespace) <= _MAX_DIGESTS, f"at most {_MAX_DIGESTS} digests")
        _require(len(self.fabrics) <= MAX_FABRICS, f"at most {MAX_FABRICS} fabrics, not {len(self.fabrics)}")
        for endpoint in (self.control, self.data, *self.fabrics):
            check_endpoint(endpoint)
        _require(len(encode(self)) <= MAX_INFO_BYTES, f"at most {MAX_INFO_BYTES} bytes for one instance")

    def require_same_namespace(self, peer: "InstanceInfo") -> None:
        """Raises NamespaceMismatch with the first digest that differs."""
        for field in sorted({*self.namespace, *peer.namespace}):
            here, there = (each.namespace.get(field, "nothing") for each in (self, peer))
            if here != there:
                raise NamespaceMismatch(field, here, there)


class ChangeKind(StrEnum):
    JOINED = "joined"
    SUSPECTED = "suspected"
    RECOVERED = "recovered"
    DIED = "died"
    LEFT = "left"


class Change(msgspec.Struct, frozen=True):
    kind: ChangeKind
    info: InstanceInfo


class MemberStatus(msgspec.Struct, frozen=True):
    """An instance that is alive. A suspected one was silent for a while: it gets no new work."""

    info: InstanceInfo
    suspected: bool = False


class Reason(StrEnum):
    LAYOUT = "layout"
    NAMESPACE = "namespace"
    SUPERSEDED = "superseded"
    TAKEN = "taken"
    FOREIGN = "foreign"
    DEAD = "dead"
    FULL = "full"


class Join(msgspec.Struct, tag="join", frozen=True):
    """`process`: a secret of the process, which no other member hears. It says that two connections, or two
    incarnations, are of one process.
    """

    info: InstanceInfo
    process: ProcessSecret


class Heartbeat(msgspec.Struct, tag="beat", frozen=True):
    instance: Name
    incarnation: Incarnation


class Leave(msgspec.Struct, tag="leave", frozen=True):
    instance: Name
    incarnation: Incarnation


class MembershipSnapshot(msgspec.Struct, tag="snapshot", frozen=True):
    """`epoch`: a number new at every start of the registry."""

    epoch: Incarnation
    seq: Seq
    members: Annotated[tuple[MemberStatus, ...], msgspec.Meta(max_length=PAGE_INFOS)]
    done: bool


class HeartbeatAck(msgspec.Struct, tag="heard", frozen=True):
    seq: Seq


class ChangeNotice(msgspec.Struct, tag="changed", frozen=True):
    seq: Seq
    change: Change


class Refusal(msgspec.Struct, tag="refusal", frozen=True):
    """`registry`, `joiner`: the two values of `field` that differ."""

    incarnation: Incarnation
    reason: Reason
    field: Text = ""
    registry: Text = ""
    joiner: Text = ""


ToRegistry = Join | Heartbeat | Leave
ToMember = MembershipSnapshot | HeartbeatAck | ChangeNotice | Refusal

encode = msgspec.msgpack.Encoder().encode
_to_registry = msgspec.msgpack.Decoder(ToRegistry)
_to_member = msgspec.msgpack.Decoder(ToMember)


def decode_to_registry(frame: bytes | memoryview) -> ToRegistry:
    """Raises FrameError."""
    message: ToRegistry = wire.decode(_to_registry, frame)
    return message


def decode_to_member(frame: bytes | memoryview) -> ToMember:
    """Raises FrameError."""
    message: ToMember = wire.decode(_to_member, frame)
    return message


def _numbers(layout: BlockLayout) -> tuple[int, ...]:
    sizes = (layout.page_size, layout.layers, layout.heads)
    return (*sizes, layout.k_plane_bytes, layout.v_plane_bytes)


def _require(holds: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"an instance needs {wanted}")
