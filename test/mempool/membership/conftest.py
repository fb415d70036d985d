import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from manual_clock import Clock
from waiting import until

from mempool.layout import BlockLayout
from mempool.membership.client import MembershipClient
from mempool.membership.messages import InstanceInfo, new_incarnation
from mempool.membership.registry_server import MembershipRegistry

RUN_MEMBER = Path(__file__).with_name("run_member.py")
DEADLINE = 20.0


def make_layout(**changes):
    values = {"kind": "mha", "dtype": "bfloat16", "page_size": 16, "layers": 4, "heads": 3}
    return BlockLayout(**{**values, "k_plane_bytes": 6144, "v_plane_bytes": 6144, **changes})


def make_info(instance, incarnation=None, **changes):
    values = {
        "role": "prefill",
        "layout": make_layout(),
        "namespace": {"model": "m1", "kv_dtype": "bfloat16"},
        "control": "tcp://127.0.0.1:5000",
        "data": "tcp://127.0.0.1:5001",
    }
    values.update(changes)
    return InstanceInfo(instance=instance, incarnation=incarnation or new_incarnation(), **values)


class Watcher:
    """A member, and all changes that it heard."""

    def __init__(self, info, registries, **settings):
        self.changes, self.fenced, self.stopped = [], [], threading.Event()
        self.member = MembershipClient(
            info,
            registries,
            on_change=self.changes.append,
            on_fenced=lambda old, new: self.fenced.append((old, new)),
            on_stopped=lambda error: self.stopped.set(),
            **{"heartbeat_s": 0.1, **settings},
        )

    def changes_of(self, instance):
        return [str(change.kind) for change in list(self.changes) if change.info.instance == instance]

    def wait_for_changes(self, instance, *kinds):
        """Until these, in this order, are the last changes of `instance`."""
        until(lambda: self.changes_of(instance)[-len(kinds) :] == list(kinds), f"{kinds} of {instance}")


class Process:
    """A child that prints a line when it is ready."""

    def __init__(self, popen, *command):
        command = [sys.executable, *map(str, command)]
        self.popen = popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def line(self):
        return self.popen.stdout.readline().strip()

    def send(self, number):
        os.kill(self.popen.pid, number)

    def end(self):
        if self.popen.poll() is None:
            self.send(signal.SIGKILL)
        self.popen.communicate()


@pytest.fixture(name="make_layout")
def _make_layout():
    return make_layout


@pytest.fixture(name="make_info")
def _make_info():
    return make_info


@pytest.fixture
def clock():
    return Clock(1000.0)


@pytest.fixture
def start_registry(open_things):
    def start(url="tcp://127.0.0.1:0", **settings):
        registry = MembershipRegistry(url, **settings)
        open_things.callback(registry.close)
        return registry

    return start


@pytest.fixture
def start_process(open_things, torch_python):
    def start(*command):
        process = Process(torch_python.popen, *command)
        open_things.callback(process.end)
        return process

    return start


@pytest.fixture
def start_registry_process(start_process):
    """A registry of its own process, and its endpoint."""

    def start(url="tcp://127.0.0.1:0", *flags):
        process = start_process("-m", "mempool.membership.registry", "--bind", url, *flags)
        return process, process.line()

    return start


@pytest.fixture
def start_member_process(start_process):
    """An instance of its own process; it prints a line of JSON when it is fenced or stopped."""

    def start(instance, *registries):
        return start_process(RUN_MEMBER, instance, *registries)

    return start


@pytest.fixture
def join(open_things):
    def make(instance, *registries, grace_s=10.0, seconds=DEADLINE, **changes):
        watcher = Watcher(make_info(instance, **changes), registries, grace_s=grace_s)
        open_things.callback(watcher.member.close)
        watcher.member.join(seconds)
        return watcher

    return make
