"""Real servers: a stock SGLang to compare with, and clusters as a user starts them. One of each a session."""

import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from e2e_engine import engine_of

START_SECONDS = 300
OF_THE_SESSION = {"one_p_one_d", "from_stock"}
# Of all clusters, so that another router follows their instances too.
CLUSTER_KEY = {"MEMSERVE_CLUSTER_KEY": "e2e" * 11}


def pytest_collection_modifyitems(items):
    """Tests that bring servers of their own come before the session's are up: there is memory for five."""
    items.sort(key=lambda item: bool(OF_THE_SESSION & set(getattr(item, "fixturenames", ()))))


class Process:
    """A server started by its own command, with its output in a file."""

    def __init__(self, name, argv, folder, env=None):
        self.log = folder / f"{name}.out"
        with self.log.open("w") as out:
            self.popen = subprocess.Popen(
                argv,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | CLUSTER_KEY | (env or {}),
                cwd=folder,
            )

    def wait_for(self, pattern, seconds, since=0):
        """Until the output after `since` characters matches; returns the match."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = re.compile(pattern).search(self.log.read_text(errors="replace"), since)
            if found:
                return found
            assert self.popen.poll() is None, f"{self.popen.args!r} ended:\n{self.tail()}"
            time.sleep(0.2)
        raise AssertionError(f"no {pattern!r} within {seconds} s:\n{self.tail()}")

    def tail(self):
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(line[:300] for line in lines if "server_args=" not in line)[-4000:]

    def stop(self):
        """SIGTERM, as a service manager would; returns the exit code and the processes that are left."""
        family = []
        if self.popen.poll() is None:
            family = psutil.Process(self.popen.pid).children(recursive=True)
            self.popen.send_signal(signal.SIGTERM)
        code = self.popen.wait(60)
        _, alive = psutil.wait_procs(family, timeout=5)
        for process in alive:
            process.kill()
        return code, alive


@pytest.fixture(scope="session")
def engine(pytestconfig):
    return engine_of(pytestconfig)


class Cluster(Process):
    def __init__(self, folder, port, engine, *sizes, flags=(), env=None):
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}"
        self.logs = folder / "logs"
        argv = [sys.executable, "-m", "sglang_memserve.cli.main", "up", *sizes]
        argv += ["--port", str(self.port), "--log-dir", str(self.logs), "--max-total-tokens", "16384"]
        argv += [*engine.up_flags, "--", "--enable-fp32-lm-head", *engine.passed_on, *flags]
        super().__init__("up", argv, folder, engine.up_env | (env or {}))

    def workers(self, role):
        return [worker for worker in _get(f"{self.url}/workers")["workers"] if worker["role"] == role]

    def signal(self, worker, number):
        """To all of a worker's processes at once; returns where the output ended before."""
        seen = len(self.log.read_text(errors="replace"))
        os.killpg(os.getpgid(self._process(worker).pid), number)
        return seen

    def _process(self, worker):
        port = worker["url"].rpartition(":")[2]
        for process in psutil.Process(self.popen.pid).children(recursive=True):
            if f"launch_server --host 127.0.0.1 --port {port} " in " ".join(process.cmdline()):
                return process
        raise AssertionError(f"no instance of the cluster listens at {worker['url']}")

    def kill(self, role):
        """SIGKILL to the first instance of a role, as `signal` does it."""
        return self.signal(self.workers(role)[0], signal.SIGKILL)

    def kill_scheduler(self, role):
        """As `kill`, but the scheduler alone: the HTTP server is there until it notices."""
        seen, process = len(self.log.read_text(errors="replace")), self._process(self.workers(role)[0])
        family = process.children(recursive=True)
        (scheduler,) = (child for child in family if child.cmdline()[0].startswith("sglang::scheduler"))
        scheduler.kill()
        return seen


@pytest.fixture(scope="session")
def cluster_of(tmp_path_factory, free_port, engine):
    """Starts clusters; each is stopped at the end, leaves no process, and has logged no leak and no crash."""
    running = []

    def start(*sizes, flags=(), env=None):
        folder = tmp_path_factory.mktemp("cluster")
        cluster = Cluster(folder, free_port(), engine, *sizes, flags=flags, env=env)
        try:
            cluster.wait_for(r"serving on ", START_SECONDS)
        except BaseException:
            cluster.stop()
            raise
        running.append(cluster)
        return cluster

    def stop(cluster):
        running.remove(cluster)
        code, alive = cluster.stop()
        assert code == 0, cluster.tail()
        assert not alive, f"left behind: {alive}"
        for log in cluster.logs.glob("*.log"):
            text = log.read_text(errors="replace")
            assert "memory leak" not in text, log
            assert "Traceback" not in text, f"{log}: {text[text.index('Traceback') :][:3000]}"

    @contextlib.contextmanager
    def used(*sizes, flags=(), env=None):
        """Stopped at the end of the block, whatever happened there: the next one needs the memory."""
        cluster = start(*sizes, flags=flags, env=env)
        try:
            yield cluster
        except BaseException:
            running.remove(cluster)
            cluster.stop()
            raise
        stop(cluster)

    start.stop, start.used = stop, used
    yield start
    for cluster in list(running):
        stop(cluster)


@pytest.fixture
def server_process(tmp_path):
    """A server of its own for the length of a block, from when its output has the pattern."""

    @contextlib.contextmanager
    def start(name, argv, pattern, env=None):
        server = Process(name, argv, tmp_path, env)
        try:
            server.wait_for(pattern, START_SECONDS)
            yield server
        finally:
            server.stop()

    return start


@pytest.fixture
def router_process(server_process, free_port):
    """A router with these flags; gives its URL."""

    @contextlib.contextmanager
    def start(*flags):
        port = free_port()
        argv = [sys.executable, "-m", "router.launch_router", "--port", str(port), *flags]
        with server_process("router", argv, "listening on"):
            yield f"http://127.0.0.1:{port}"

    return start


@pytest.fixture(scope="session")
def one_p_one_d(cluster_of):
    # SGLang's own look at prefill would come too late: a restart must be noticed without it.
    return cluster_of(
        "--prefill", "1", "--decode", "1", env={"SGLANG_DISAGGREGATION_HEARTBEAT_INTERVAL": "600"}
    )


@pytest.fixture(scope="session")
def stock_of(tmp_path_factory, free_port, engine):
    """`with stock_of(*flags) as url`: stock SGLang, colocated on the same platform."""

    @contextlib.contextmanager
    def used(*flags):
        port = free_port()
        argv = [sys.executable, "-m", "sglang.launch_server", "--host", "127.0.0.1", "--port", str(port)]
        env = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
        command, folder = [*argv, *engine.stock_flags, *flags], tmp_path_factory.mktemp("stock")
        server = Process("stock", command, folder, env | engine.stock_env)
        try:
            server.wait_for("fired up and ready", START_SECONDS)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stop()

    return used


@pytest.fixture(scope="session")
def from_stock(stock_of):
    """What stock SGLang gives for a scenario, asked once."""
    answers = {}
    with stock_of() as url:

        def ask(name, scenario):
            if name not in answers:
                answers[name] = scenario(url)
            return answers[name]

        yield ask


@pytest.fixture(scope="session")
def post():
    """post(url, path, body) gives (status, JSON or text); a body of bytes goes as it is."""

    def send(url, path, body, seconds=120):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                return response.status, _parsed(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _parsed(error.read())
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)

    return send


@pytest.fixture(scope="session")
def halves(post):
    """halves(prefill, decode, body) posts to these two workers; prefill's answer and decode's, as futures."""
    with ThreadPoolExecutor(16) as pool:

        def send(prefill, decode, body, seconds=120):
            room = {"bootstrap_host": "127.0.0.1", "bootstrap_port": prefill["bootstrap_port"]}
            room["bootstrap_room"] = random.getrandbits(62) or 1
            urls = prefill["url"], decode["url"]
            return [pool.submit(post, url, "/generate", body | room, seconds) for url in urls]

        yield send


@pytest.fixture(scope="session")
def fetch_from():
    """fetch_from(source) gives the fields of a request that may fetch its prompt's KV from that instance."""

    def hint(source, deadline_ms=20_000, **more):
        payload = {"from": source, "deadline_ms": deadline_ms, **more}
        action = {
            "action_id": "1",
            "action_type": "memserve.fetch",
            "action_version": "1",
            "payload": payload,
        }
        return {"kv_hints": {"protocol_version": "1", "message_id": "1", "actions": [action]}}

    return hint


class Greedy:
    """Answers with the tokens that came close at each place, and what two of them differ in.

    Tokens within TIE (nats) of the reference's best may come out instead when sums are done in another order
    or batch. After prompts of meaningless tokens more than two can be. `page_size`: of every server.
    """

    TIE, CLOSEST = 0.15, 10

    def __init__(self, post, page_size):
        self._post = post
        self.page_size = page_size

    def body(self, prompt, tokens=24):
        params = {"temperature": 0, "max_new_tokens": tokens}
        scores = {"return_logprob": True, "top_logprobs_num": self.CLOSEST}
        return {**prompt, "sampling_params": params, **scores}

    def answer(self, url, prompt):
        status, body = self._post(url, "/generate", self.body(prompt), 300)
        assert status == 200, body
        return body

    def difference(self, reference, candidate):
        """None where equal; otherwise 'tie' or what differs."""
        a, b = reference["output_ids"], candidate["output_ids"]
        if a == b:
            return None
        where = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        if where is None:
            return f"lengths {len(a)} and {len(b)}"
        best = reference["meta_info"]["output_top_logprobs"][where]
        tied = {token for logprob, token, _ in best if best[0][0] - logprob <= self.TIE}
        if {a[where], b[where]} <= tied:
            return "tie"
        return f"token {where}: {a[where]} and {b[where]}, the reference's best are {best}"


@pytest.fixture(scope="session")
def greedy(post, engine):
    return Greedy(post, engine.page_size)


def _parsed(raw):
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")


@pytest.fixture(scope="session")
def in_use():
    """in_use(url) gives what each instance of a router's holds beside its cache, where that is not 0.

    Requests, tokens, rooms and transfers, as "role name": number.
    """

    def look(url):
        held = {}
        for worker in _get(f"{url}/workers")["workers"]:
            (load,) = _get(f"{worker['url']}/v1/loads")["loads"]
            counts = {key: load[key] for key in ("num_running_reqs", "num_waiting_reqs", "num_used_tokens")}
            counts |= {k: v for k, v in load["disaggregation"].items() if k.endswith("_reqs")}
            (state,) = _get(f"{worker['url']}/server_info")["internal_states"]
            counts |= {k: v for k, v in state["memserve"].items() if k.startswith("open_")}
            held |= {f"{worker['role']} {key}": value for key, value in counts.items() if value}
        return held

    return look


def _get(url):
    # An instance that is in the middle of a long prefill answers after it.
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.load(response)
