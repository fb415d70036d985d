"""Three hosts with a cluster's key and certificates, and a fourth that has neither, and gets nothing.

Hosts are network namespaces, so the test is root's. What goes over all wires of the cluster is captured.
"""

import itertools
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import msgspec
import pytest
import trustme
from hosts import Capture, Hosts
from waiting import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.full,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
]

SECRET, API_KEY = "7f" * 32, "a-key-for-clients"
PAGE, START_SECONDS = 16, 300
REGISTRY, FEED, CONTROL, BLOCKS, RANK, TRANSFER, BOOTSTRAP = 7000, 7001, 7002, 7003, 7100, 7200, 8998
PREFILL, DECODE, ROUTER = 30001, 30002, 30000
PROMPT = "The lighthouse keeper Ottokar Quandt counts seventeen violet herons before breakfast."


@pytest.fixture(scope="module")
def hosts():
    hosts = Hosts("front", "p1", "d1", "stranger")
    yield hosts
    hosts.close()


@pytest.fixture(scope="module")
def cluster(hosts, tmp_path_factory, start_at):
    """As docs/guides/several-hosts.md says, with certificates of an authority of its own."""
    folder = tmp_path_factory.mktemp("hosts")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("front", "p1", "d1"):
        leaf = authority.issue_cert(hosts[name])
        leaf.private_key_pem.write_to_path(folder / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
    (folder / "cluster.key").write_text(SECRET)
    (folder / "cluster.key").chmod(0o600)

    registry = f"tcp://{hosts['front']}:{REGISTRY}"
    ports = [
        "--memserve-feed-port",
        FEED,
        "--memserve-control-port",
        CONTROL,
        "--memserve-block-port",
        BLOCKS,
    ]

    def instance(name, role, port, *pinned):
        own = ["--bootstrap-port", BOOTSTRAP] if role == "prefill" else []
        return start_at(
            *(hosts, folder, name, "fired up and ready"),
            *("instance", "--role", role, "--host", hosts[name], "--port", port, *own, "--"),
            *("--memserve-registries", registry, *ports, "--memserve-rank-port", RANK, *pinned),
            *("--max-total-tokens", 16384, "--enable-cache-report", "--enable-metrics"),
            *("--ssl-certfile", folder / f"{name}.crt", "--ssl-keyfile", folder / f"{name}.key"),
        )

    start_at(hosts, folder, "front", r"tcp://", "registry", "--bind", registry).ready()
    halves = [
        instance("p1", "prefill", PREFILL),
        instance("d1", "decode", DECODE, "--memserve-transfer-port", TRANSFER),
    ]
    for half in halves:
        half.ready()
    urls = [f"https://{hosts['p1']}:{PREFILL}", f"https://{hosts['d1']}:{DECODE}"]
    front = f"https://{hosts['front']}:{ROUTER}"
    start_at(
        *(hosts, folder, "front", "listening on"),
        *("router", "--host", hosts["front"], "--port", ROUTER, "--ca-cert-paths", folder / "ca.pem"),
        *("--tls-cert-path", folder / "front.crt", "--tls-key-path", folder / "front.key"),
        *("--prefill", urls[0], BOOTSTRAP, "--decode", urls[1]),
    ).ready()
    trust = ssl.create_default_context(cafile=folder / "ca.pem")
    return SimpleNamespace(
        url=front, prefill=urls[0], decode=urls[1], folder=folder, ask=lambda *what: ask(trust, *what)
    )


@pytest.fixture(scope="module")
def start_at():
    """Starts `memserve` on a host, with the cluster's keys; `ready()` waits for its sign."""
    running = []

    def start(hosts, folder, name, sign, *argv):
        log = folder / f"{name}-{argv[0]}.out"
        env = {
            **{"MEMSERVE_CLUSTER_KEY_FILE": str(folder / "cluster.key"), "SGLANG_HOST_IP": hosts[name]},
            **{"MEMSERVE_INSTANCE_API_KEY": API_KEY, "MEMSERVE_ROUTER_API_KEY": API_KEY},
            **{"MEMSERVE_ROUTER_WORKER_API_KEY": API_KEY, "OMP_NUM_THREADS": "1"},
        }
        command = [sys.executable, "-m", "sglang_memserve.cli.main", *map(str, argv)]
        with log.open("w") as out:
            process = subprocess.Popen(
                hosts.command(name, *command), stdout=out, stderr=out, env=os.environ | env, cwd=folder
            )
        running.append(process)

        def ready():
            def said():
                text = log.read_text(errors="replace")
                assert process.poll() is None, text[-4000:]
                return sign in text

            until(said, f"{sign!r} in {log}", timeout_s=START_SECONDS)

        return SimpleNamespace(ready=ready)

    yield start
    for process in reversed(running):
        process.terminate()
    for process in running:
        process.wait(60)


def ask(trust, url, body=None, headers=()):
    data = None if body is None else json.dumps(body).encode()
    sent = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"} | dict(headers)
    request = urllib.request.Request(url, data, sent)
    with urllib.request.urlopen(request, timeout=120, context=trust) as response:
        raw = response.read()
        return json.loads(raw) if response.headers.get_content_type() == "application/json" else raw


def counters(cluster, url):
    return cluster.ask(f"{url}/server_info")["internal_states"][0]["memserve"]


def generate(cluster, url, **fields):
    params = {"temperature": 0, "max_new_tokens": 40, "ignore_eos": True}
    return cluster.ask(f"{url}/generate", {"sampling_params": params} | fields)


def test_a_cluster_with_a_key_caches_on_both_sides(hosts, cluster, fetch_from):
    ids = list(range(9000, 9400))
    answer = generate(cluster, cluster.url, input_ids=ids)
    whole = ids + answer["output_ids"]
    until(lambda: counters(cluster, cluster.prefill).get("write_backs_inserted", 0) == 1)
    again = generate(cluster, cluster.url, input_ids=[*whole, *range(9500, 9530)])
    assert again["meta_info"]["cached_tokens"] >= len(whole) - 2 * PAGE

    # Prefill forgets it; decode has it, and is named as the source.
    cluster.ask(f"{cluster.prefill}/flush_cache", {})
    source = counters(cluster, cluster.decode)["instance"]
    hint = fetch_from(source, role="prefill")
    generate(cluster, cluster.url, input_ids=[*whole, *range(9600, 9630)], **hint)
    assert counters(cluster, cluster.prefill)["fetches_completed"] >= 1


def test_the_doctor_finds_nothing_wrong(hosts, cluster):
    env = {"MEMSERVE_API_KEY": API_KEY, "MEMSERVE_CLUSTER_KEY_FILE": str(cluster.folder / "cluster.key")}
    command = [sys.executable, "-m", "sglang_memserve.cli.main", "doctor", "--url", cluster.url]
    command += ["--ca-cert-paths", str(cluster.folder / "ca.pem")]
    done = subprocess.run(
        hosts.command("front", *command), env=os.environ | env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_capture_of_a_chat_shows_no_token_and_no_text(hosts, cluster):
    wires = [hosts.port(name) for name in ("front", "p1", "d1")]
    with Capture(*wires) as capture:
        marker(hosts, b"what is not sealed is seen")
        for turn in range(2):
            body = {"model": "default", "max_tokens": 30, "temperature": 0}
            body["messages"] = [{"role": "user", "content": f"{PROMPT} Turn {turn}."}]
            chat = cluster.ask(f"{cluster.url}/v1/chat/completions", body)
        text = chat["choices"][0]["message"]["content"]
        answer = generate(cluster, cluster.url, text=PROMPT)
    seen = b"\n".join(capture.flows.values())
    assert b"what is not sealed is seen" in seen
    assert len(seen) > 1 << 20, "the KV of a prompt went over no wire"
    ports = {int.from_bytes(flow[3][side : side + 2]) for flow in capture.flows for side in (0, 2)}
    assert {ROUTER, PREFILL, DECODE, FEED, BLOCKS, RANK, TRANSFER} <= ports
    words = [*windows(PROMPT, 12), *windows(text, 12), *windows(answer["text"], 12)]
    leaks = [word for word in words if word.encode() in seen]
    assert not leaks
    assert not [ids for ids in windows(answer["output_ids"], 4) for form in forms(ids) if form in seen]


def marker(hosts, data):
    with socket.create_server((hosts.here, 0)) as listener:
        address = listener.getsockname()
        with hosts.at("front"), socket.create_connection(address) as connection:
            connection.sendall(data)


def windows(sequence, length):
    return [sequence[at : at + length] for at in range(0, len(sequence) - length + 1, length)]


def forms(ids):
    """How token ids may be written: JSON, msgpack, and arrays of 32 and 64 bits."""
    yield json.dumps(ids)[1:-1].encode()
    yield json.dumps(ids, separators=(",", ":"))[1:-1].encode()
    yield msgspec.msgpack.encode(ids)[1:]
    yield struct.pack(f"<{len(ids)}i", *ids)
    yield struct.pack(f"<{len(ids)}q", *ids)


ZMTP_NULL = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
ROUTE = b"/route?prefill_dp_rank=-1&prefill_cp_rank=-1&target_tp_rank=-1&target_pp_rank=-1"
SAYS = {
    "nothing": b"",
    "HTTP": b"GET /server_info HTTP/1.1\r\nHost: x\r\n\r\n",
    "route": b"GET " + ROUTE + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "ZMTP": ZMTP_NULL + b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER" + b"\x00\x01x" * 50,
    "stream": struct.pack("<II", 2, 0) + b"\x91\xa5",
}


def test_a_stranger_gets_nothing_at_any_port(hosts, cluster):
    heard = {}
    for name, (what, says) in itertools.product(("front", "p1", "d1"), SAYS.items()):
        for port in hosts.listening(name):
            heard[name, port, what] = said_to(hosts, (hosts[name], port), says)
    ours = {"front": {ROUTER, REGISTRY}, "p1": {PREFILL, FEED, CONTROL, BLOCKS, RANK, BOOTSTRAP}}
    ours["d1"] = {DECODE, FEED, CONTROL, BLOCKS, RANK, TRANSFER}
    for (name, port, what), answer in sorted(heard.items()):
        print(f"{name}:{port:<6} {what:8} {answer[:60]!r}")
    for name, ports in ours.items():
        assert ports <= set(hosts.listening(name))
    # A ZeroMQ socket greets whoever connects (64 bytes, the same for all), and the block channel asks whether
    # anybody is there (8 bytes of 0), or says why it hangs up. TLS answers with an alert.
    leaks = {at: answer for at, answer in heard.items() if not harmless(answer)}
    assert not leaks
    for url in (cluster.url, cluster.prefill, cluster.decode):
        with hosts.at("stranger"), pytest.raises(urllib.error.HTTPError) as refused:
            cluster.ask(f"{url}/server_info", None, {"Authorization": "Bearer guess"})
        assert refused.value.code == 401


def said_to(hosts, address, data):
    """What a host without the key hears within two seconds, or until it is cut off."""
    heard = b""
    with hosts.at("stranger"), socket.create_connection(address, timeout=2) as connection:
        try:
            connection.sendall(data)
            while len(heard) < 1 << 16 and (part := connection.recv(1 << 16)):
                heard += part
        except OSError:
            pass
    return heard


def harmless(answer):
    greeting = answer[:1] == b"\xff" and len(answer) <= 64
    alert = answer[:1] == b"\x15" and len(answer) <= 16
    refusal = re.match(rb"HTTP/1\.[01] 40[01] ", answer)
    goodbye = b"\xa4type\xa3bye" in answer and len(answer) <= 256
    return not answer.strip(b"\0") or bool(greeting or alert or refusal or goodbye)
