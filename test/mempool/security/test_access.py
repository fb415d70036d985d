"""Which addresses are served without a key, and as whom a connection speaks."""

from collections.abc import Callable
from typing import Any

import pytest
from waiting import until

from mempool.endpoints import is_loopback
from mempool.errors import MemPoolError
from mempool.feed.server import FeedServer
from mempool.membership import cli
from mempool.membership.registry_server import MembershipRegistry
from mempool.security.access import INSECURE_VARIABLE, ClusterAccess, UnprotectedAddress
from mempool.security.cluster_key import FILE_VARIABLE, KEY_VARIABLE, ClusterKey, ClusterKeyError
from mempool.sockets import SocketLimits
from mempool.transfer.receiver import BlockReceiver
from mempool.transports.registry import Transports

KEY = ClusterKey("k" * 32)
EVERYWHERE = [
    "tcp://0.0.0.0:0",
    "tcp://[::]:0",
    "tcp://192.0.2.1:0",
    "tcp://example.org:0",
    "tcp://*:1",
    "tcp://",
    "tcp://127.0.0.1:1:0.0.0.0:1",
    "tcp://eth0:0",
]
HERE = [
    "tcp://127.0.0.1:0",
    "tcp://127.8.8.8:0",
    "tcp://[::1]:0",
    "tcp://localhost:0",
    "tcp://127.0.0.1:*",
    "ipc:///tmp/x",
    "inproc://x",
]

LISTENERS: dict[str, Callable[[str, ClusterAccess], Any]] = {
    "registry": lambda url, access: MembershipRegistry(url, access=access),
    "feed": lambda url, access: FeedServer(url, {}, access=access),
    "control": lambda url, access: Transports(access=access).listen(url, SocketLimits(), 1024),
    "blocks": lambda url, access: BlockReceiver(
        url.replace("tcp", "stream"), transports=Transports(access=access)
    ),
}


@pytest.mark.parametrize("url", EVERYWHERE)
def test_addresses_that_other_hosts_reach_are_no_loopback(url):
    assert not is_loopback(url)
    assert not is_loopback(url.replace("tcp", "stream"))


@pytest.mark.parametrize("url", HERE)
def test_addresses_of_this_host_alone_are_loopback(url):
    assert is_loopback(url)


@pytest.mark.parametrize("what", LISTENERS)
def test_without_a_key_only_the_loopback_is_served(what, open_things):
    listen = LISTENERS[what]
    with pytest.raises(UnprotectedAddress, match=r"0\.0\.0\.0") as error:
        listen("tcp://0.0.0.0:0", ClusterAccess())
    assert FILE_VARIABLE in str(error.value)
    assert "--insecure" in str(error.value)
    for allowed in (ClusterAccess(KEY), ClusterAccess(insecure=True)):
        open_things.callback(listen("tcp://0.0.0.0:0", allowed).close)
    open_things.callback(listen("tcp://127.0.0.1:0", ClusterAccess()).close)


def test_a_taken_address_leaves_nothing_behind_where_there_is_a_key(open_things):
    registry = MembershipRegistry("tcp://127.0.0.1:0", access=ClusterAccess(KEY))
    open_things.callback(registry.close)
    for listen in (LISTENERS["registry"], LISTENERS["feed"], LISTENERS["control"]):
        with pytest.raises(MemPoolError, match="in use"):
            listen(registry.endpoint, ClusterAccess(KEY))


def test_insecure_is_warned_of_only_where_there_is_no_key():
    assert FILE_VARIABLE in ClusterAccess(insecure=True).caveat
    assert not ClusterAccess(KEY, insecure=True).caveat
    assert not ClusterAccess().caveat


def test_an_access_takes_its_key_from_the_environment(tmp_path):
    path = tmp_path / "key"
    path.write_text("k" * 32)
    path.chmod(0o644)
    with pytest.raises(ClusterKeyError, match="0644"):
        ClusterAccess.from_environment({FILE_VARIABLE: str(path)})
    path.chmod(0o600)
    assert ClusterAccess.from_environment({FILE_VARIABLE: str(path)}).key == KEY
    assert ClusterAccess.from_environment({}, key_file=str(path)).key == KEY
    assert ClusterAccess.from_environment({}).key is None


def test_the_access_does_not_show_the_key():
    assert "k" * 32 not in repr(ClusterAccess(KEY))


def test_a_listener_knows_the_name_of_who_speaks(open_things):
    listener = Transports(access=ClusterAccess(KEY)).listen("tcp://127.0.0.1:0", SocketLimits(), 1024)
    open_things.callback(listener.close)
    names = []
    for name in ("a", "b/c", "", "a"):
        transports = Transports(access=ClusterAccess(KEY, name=name))
        connection = transports.connect(listener.endpoint, SocketLimits())
        open_things.callback(connection.close)
        until(lambda it=connection: it.receive() is None and it.opened and it.send([b"hello"]))
        until(lambda: (received := listener.receive()) and names.append(received.speaker.name) is None)
    assert names == ["a", "b/c", None, "a"]


def test_the_registrys_command_refuses_what_others_reach_and_bad_keys(capsys, tmp_path, monkeypatch):
    for name in (FILE_VARIABLE, KEY_VARIABLE, INSECURE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["--bind", "tcp://0.0.0.0:0"]) == 1
    assert FILE_VARIABLE in capsys.readouterr().err
    path = tmp_path / "key"
    path.write_text("k" * 32)
    path.chmod(0o604)
    assert cli.main(["--bind", "tcp://0.0.0.0:0", "--cluster-key-file", str(path)]) == 2
    assert "0604" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "says"), [("false", 1, FILE_VARIABLE), ("0", 1, FILE_VARIABLE), ("no", 2, "give 1")]
)
def test_the_registrys_variable_means_what_an_instances_does(capsys, monkeypatch, text, code, says):
    monkeypatch.setenv(INSECURE_VARIABLE, text)
    assert cli.main(["--bind", "tcp://0.0.0.0:0"]) == code
    assert says in capsys.readouterr().err
