"""Network namespaces on one bridge: they see each other as hosts on a switch do. For root on Linux."""

import contextlib
import ctypes
import os
import re
import select
import socket
import subprocess
import threading
from collections import defaultdict

ETH_P_ALL = 3
ETHERNET_BYTES = 14
CLONE_NEWNET = 0x40000000


class Hosts:
    """`Hosts("front", "p1")`: `hosts["front"]` is an address, and `hosts.here` this process's."""

    def __init__(self, *names):
        self._tag = f"{os.getpid() % 100_000:05d}"
        self._bridge = f"ms{self._tag}"
        net = f"10.77.{os.getpid() % 250}"
        self.here = f"{net}.254"
        self._addresses = {name: f"{net}.{number}" for number, name in enumerate(names, 1)}
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self):
        ip("link", "add", self._bridge, "type", "bridge")
        ip("addr", "add", f"{self.here}/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        for name, address in self._addresses.items():
            space, port = self.namespace(name), self.port(name)
            ip("netns", "add", space)
            ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", port, "master", self._bridge, "up")
            ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")

    def __getitem__(self, name):
        return self._addresses[name]

    def namespace(self, name):
        return f"{self._bridge}-{name}"

    def port(self, name):
        """The switch's port of that host: an interface of this namespace, which sees all of its traffic."""
        return f"m{self._tag}{list(self._addresses).index(name)}"

    def command(self, name, *argv):
        return ["ip", "netns", "exec", self.namespace(name), *argv]

    def listening(self, name):
        """The TCP ports of a host that others can reach."""
        done = subprocess.run(self.command(name, "ss", "-Hltn"), capture_output=True, text=True, check=True)
        ends = [line.split()[3].rsplit(":", 1) for line in done.stdout.splitlines()]
        return sorted({int(port) for address, port in ends if not re.match(r"127\.|\[::1\]", address)})

    @contextlib.contextmanager
    def at(self, name):
        """This thread is on that host: the sockets that it makes in the block are."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.namespace(name)}") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                libc.setns(home.fileno(), CLONE_NEWNET)

    def close(self):
        for name in self._addresses:
            ip("netns", "del", self.namespace(name), check=False)
        ip("link", "del", self._bridge, check=False)


class Capture:
    """What goes over interfaces in the block: the bytes of each TCP flow, in the order of passing."""

    def __init__(self, *interfaces):
        self._sockets = []
        for interface in interfaces:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
            raw.bind((interface, 0))
            self._sockets.append(raw)
        self.flows = defaultdict(bytearray)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._ended.set()
        self._thread.join()
        for raw in self._sockets:
            raw.close()

    def _run(self):
        while True:
            ready, _, _ = select.select(self._sockets, [], [], 0.2)
            if not ready and self._ended.is_set():
                return
            for raw in ready:
                self._take(raw.getsockname()[0], raw.recv(1 << 16))

    def _take(self, interface, frame):
        kind, packet = frame[12:ETHERNET_BYTES], frame[ETHERNET_BYTES:]
        if kind != b"\x08\x00" or packet[9] != socket.IPPROTO_TCP:
            return
        segment = packet[4 * (packet[0] & 15) : int.from_bytes(packet[2:4], "big")]
        flow = interface, packet[12:16], packet[16:20], segment[:4]
        self.flows[flow] += segment[4 * (segment[12] >> 4) :]


def ip(*arguments, check=True):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if check and done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
