"""SGLang's bootstrap server with a cluster's key: members are served, strangers change and learn nothing."""

import ast
import inspect
import time

import pytest
import requests
from manual_clock import Clock
from sglang.srt.disaggregation.common import conn

from mempool.security.cluster_key import ClusterKey
from sglang_memserve.transfer.bootstrap import (
    ANSWER,
    CHALLENGE,
    CHALLENGE_SECONDS,
    Challenges,
    MemberAuth,
    MemberBootstrapServer,
    answer,
    answer_challenges,
)

SECRET = "s" * 32
KEY = ClusterKey(SECRET).derive("bootstrap")
RANK = {
    **dict.fromkeys(("attn_tp_size", "attn_cp_size", "attn_dp_size", "pp_size", "system_dp_size"), 1),
    **dict.fromkeys(("attn_tp_rank", "attn_cp_rank", "attn_dp_rank", "pp_rank", "system_dp_rank"), 0),
    **{"rank_ip": "127.0.0.1", "rank_port": 7100, "page_size": 16, "kv_cache_dtype": "auto"},
}
ASK = "route?prefill_dp_rank=-1&prefill_cp_rank=-1&target_tp_rank=-1&target_pp_rank=-1"


@pytest.fixture
def serve(free_port, open_things):
    """A server that answers already, with the cluster key that the environment has; gives its URL."""

    def start():
        port = free_port()
        open_things.callback(MemberBootstrapServer("127.0.0.1", port).close)
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 30
        while True:
            try:
                requests.get(f"{url}/health", timeout=5)
                return url
            except requests.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    return start


@pytest.fixture
def url(serve, monkeypatch):
    monkeypatch.setenv("MEMSERVE_CLUSTER_KEY", SECRET)
    return serve()


@pytest.fixture
def member(monkeypatch):
    """What SGLang's common layer calls `requests`, as a member has it."""
    monkeypatch.setattr(conn, "requests", requests)
    answer_challenges(ClusterKey(SECRET))
    return conn.requests


def test_members_register_and_find_each_other(url, member):
    assert member.put(f"{url}/route", json=RANK, timeout=5).status_code == 200
    found = member.get(f"{url}/{ASK}", timeout=5)
    assert found.status_code == 200
    assert found.json()["page_size"] == 16
    with member.Session() as session:
        assert session.post(f"{url}/query_dp_ranks", json={"bootstrap_rooms": [1]}, timeout=5).ok
        assert session.get(f"{url}/health", timeout=5).text == "OK"


@pytest.mark.parametrize("auth", [None, MemberAuth(b"x" * 32)], ids=["no key", "another key"])
def test_a_stranger_learns_and_changes_nothing(url, member, auth):
    assert member.put(f"{url}/route", json=RANK, timeout=5).status_code == 200
    rogue = RANK | {"rank_ip": "10.0.0.66", "page_size": 32}
    for method, path in (("put", "route"), ("get", ASK), ("get", "health"), ("post", "register_dp_rank")):
        response = requests.request(method, f"{url}/{path}", json=rogue, auth=auth, timeout=5)
        assert (response.status_code, response.text) == (401, "members of the cluster only")
    assert member.get(f"{url}/{ASK}", timeout=5).json()["page_size"] == 16


def test_without_a_cluster_key_it_is_sglangs_own(serve, monkeypatch):
    monkeypatch.setattr(conn, "requests", requests)
    answer_challenges(None)
    assert conn.requests is requests
    url = serve()
    assert requests.put(f"{url}/route", json=RANK, timeout=5).ok
    assert requests.get(f"{url}/{ASK}", timeout=5).json()["page_size"] == 16


def test_an_answer_is_good_for_its_own_request_alone(url):
    challenge = requests.get(f"{url}/health", timeout=5).headers[CHALLENGE]
    heard = {CHALLENGE: challenge, ANSWER: answer(KEY, challenge, "GET", "/health", b"")}
    assert requests.get(f"{url}/health", headers=heard, timeout=5).ok
    assert requests.get(f"{url}/health?x=1", headers=heard, timeout=5).status_code == 401
    assert requests.get(f"{url}/health", headers=heard, data=b"x", timeout=5).status_code == 401
    assert requests.get(f"{url}/{ASK}", headers=heard, timeout=5).status_code == 401
    forged = {CHALLENGE: "00" * 32, ANSWER: answer(KEY, "00" * 32, "GET", "/health", b"")}
    assert requests.get(f"{url}/health", headers=forged, timeout=5).status_code == 401


def test_a_challenge_is_old_after_its_time():
    clock = Clock()
    challenges = Challenges(clock)
    challenge = challenges.new()
    clock.now += CHALLENGE_SECONDS
    assert challenges.holds(challenge)
    clock.now += 2
    assert not challenges.holds(challenge)
    assert not any(map(challenges.holds, ("", "zz", "00", challenge[2:], Challenges(clock).new())))


def test_sglang_asks_requests_for_nothing_else(member):
    """What the common layer takes of the module `requests`, beside its annotations, is what a member has."""
    tree = ast.parse(inspect.getsource(conn))
    annotations = {id(part) for node in ast.walk(tree) for part in annotated(node)}
    asked = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and id(node) not in annotations
        and ast.unparse(node.value) == "requests"
    }
    assert asked == set(vars(member))


def annotated(node):
    notes = [getattr(node, name, None) for name in ("annotation", "returns")]
    return [part for note in notes if note is not None for part in ast.walk(note)]
