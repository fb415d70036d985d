import subprocess
import sys
import time

import msgspec
import pytest

from mempool.endpoints import check_endpoint
from mempool.errors import FrameError
from mempool.membership.messages import (
    PAGE_INFOS,
    Join,
    MembershipSnapshot,
    MemberStatus,
    decode_to_member,
    decode_to_registry,
    encode,
    new_incarnation,
)
from mempool.wire import MAX_HEADER_BYTES


def test_the_membership_imports_without_torch():
    check = "import sys, mempool.membership.client, mempool.membership.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("hours", [-1, 0, 1, 1_000_000])
def test_incarnations_are_new_whatever_the_clock_says(monkeypatch, hours):
    before = {new_incarnation() for _ in range(1000)}
    for clock in ("time", "time_ns"):
        monkeypatch.setattr(time, clock, lambda: hours * 3600)
    after = {new_incarnation() for _ in range(1000)}
    assert len(before | after) == 2000
    assert all(1 <= number < 2**63 for number in before | after)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:1", "tcp://[::1]:65535", "tcp://node-3.local:80", "ipc:///tmp/x", "shm://a"]
)
def test_endpoints_of_any_transport_are_taken(endpoint):
    check_endpoint(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "127.0.0.1:1",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65536",
        "stream://127.0.0.1:0",
        "stream://127.0.0.1",
        "tcp://:80",
        "tcp://a:80/x",
        "tcp://a:80\n",
        "ipc://" + "x" * 300,
        "ipc://a b",
        "stream://a..b:1",
        "tcp://.a:1",
        f"tcp://{'a' * 64}:1",
        f"stream://{'a.' * 127}a:1",
        "tcp://[::1::]:1",
        "tcp://[1.2.3.4]:1",
        "stream://[]:1",
        "stream://[%]:1",
        "tcp://a:99999",
    ],
)
def test_what_nobody_can_connect_to_is_no_endpoint(endpoint):
    with pytest.raises(ValueError, match="not an endpoint"):
        check_endpoint(endpoint)


OUT_OF_BOUNDS = [
    {"instance": ""},
    {"instance": "a" * 129},
    {"instance": "a\n"},
    {"incarnation": -1},
    {"incarnation": 2**63},
    {"role": ""},
    {"namespace": {"model": "x" * 257}},
    {"namespace": {"": "x"}},
    {"namespace": {str(n): "x" for n in range(17)}},
    {"namespace": {f"{n}" * 100: "x" * 250 for n in range(10, 26)}},
    {"control": "nowhere"},
    {"data": "tcp://127.0.0.1:0"},
    {"fabrics": ("nowhere",)},
    {"fabrics": tuple(f"shm://{n}" for n in range(5))},
]


@pytest.mark.parametrize("changes", OUT_OF_BOUNDS, ids=str)
def test_an_instance_out_of_bounds_is_refused_here_and_from_the_network(make_info, changes):
    with pytest.raises(ValueError, match=r"needs|not an endpoint"):
        make_info("a", **changes) if "instance" not in changes else make_info(**changes)
    plain = msgspec.to_builtins(Join(make_info("a"), bytes(16)))
    plain["info"].update(changes)
    with pytest.raises(FrameError):
        decode_to_registry(msgspec.msgpack.encode(plain))


@pytest.mark.parametrize("changes", [{"kind": "x" * 200}, {"dtype": ""}, {"layers": -1}, {"heads": 2**63}])
def test_a_layout_out_of_bounds_is_refused(make_info, make_layout, changes):
    with pytest.raises(ValueError, match="needs"):
        make_info("a", layout=make_layout(**changes))


def test_the_largest_page_of_a_snapshot_fits_a_frame(make_info):
    namespace = {f"{n}" * 8: "x" * 200 for n in range(10, 25)}
    info = make_info("a" * 128, namespace=namespace, control="ipc://" + "c" * 200, data="ipc://" + "d" * 200)
    frame = encode(MembershipSnapshot(1, 2, (MemberStatus(info, True),) * PAGE_INFOS, True))
    assert len(encode(info)) > 3500
    assert len(frame) <= MAX_HEADER_BYTES
    assert len(decode_to_member(frame).members) == PAGE_INFOS
