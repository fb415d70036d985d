"""A device that runs ahead of its callers, on CPU tensors, and finds what it may do in the wrong order.

It computes at once, and keeps for each stream, and for the host, what has surely been done before what they
do next. Two of them that touch one of the `watched` tensors, one writing, race unless one is surely first.
"""

import threading
import traceback
from collections import defaultdict
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mempool.device import Device


class Actor:
    """The host or a stream. `known`: how many actions of each have surely been done before its next."""

    def __init__(self, device, name):
        self.device, self.name = device, name
        self.known = defaultdict(int)

    def learn(self, known):
        for name, count in known.items():
            self.known[name] = max(self.known[name], count)

    def touch(self, tensor, writes):
        watched = self.device.watched.get(tensor.untyped_storage().data_ptr())
        if watched is None:
            return
        what, touches = watched[0], watched[2]
        self.known[self.name] += 1
        for name, count, wrote in touches:
            if (writes or wrote) and self.known[name] < count:
                verbs = ("writes" if writes else "reads", "wrote" if wrote else "read")
                self.device.races.append(f"{self.name} {verbs[0]} {what} while {name} {verbs[1]} it")
        touches.append((self.name, self.known[self.name], writes))


class Stream(Actor):
    def record_event(self):
        return self.device.add_event(dict(self.known))

    def wait_event(self, event):
        self.learn(event.known)

    def wait_stream(self, other):
        self.learn(other.known)

    def synchronize(self):
        self.device.wait(self.known)


class Event:
    def __init__(self, device, known):
        self.device, self.known, self.past = device, known, False

    def query(self):
        if self.past:
            self.device.host.learn(self.known)
        return self.past

    def synchronize(self):
        self.device.wait(self.known)
        self.past = True


class _Watching(TorchDispatchMode):
    def __init__(self, stream):
        super().__init__()
        self._stream = stream

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not func.is_view:
            named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
            for argument in func._schema.arguments:
                given = (named | kwargs).get(argument.name)
                writes = argument.alias_info is not None and argument.alias_info.is_write
                for tensor in given if isinstance(given, list | tuple) else [given]:
                    if isinstance(tensor, torch.Tensor):
                        self._stream.touch(tensor, writes)
        return func(*args, **kwargs)


class OwnTensor(torch.Tensor):
    """On the device: what has its content from it has waited. What is computed from it is there too."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        to_cpu = func is torch.Tensor.to and any(
            str(given) == "cpu" for given in [*args[1:], *(kwargs or {}).values()]
        )
        if to_cpu or func in _WAITING:
            cls.device.note_wait()
        return super().__torch_function__(func, types, args, kwargs or {})


_WAITING = {
    getattr(torch.Tensor, name)
    for name in ("cpu", "item", "tolist", "numpy", "nonzero", "__int__", "__bool__", "__index__", "__float__")
}


class RecordedDevice(Device):
    """`schedule`: the stream that is current unless another is. `races`: what was found, in words. `waits`:
    the names of the threads that have waited for the device, by an event or for the content of a tensor.
    """

    runs_ahead = True

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.watched, self.races, self.waits, self.events = {}, [], [], []
        self.host, self.schedule = Actor(self, "the host"), Stream(self, "schedule")
        self._current = threading.local()
        self._made = 0
        self._own = type("OwnTensor", (OwnTensor,), {"device": self})

    def own(self, tensor):
        """The tensor, as the device has it."""
        return None if tensor is None else tensor.as_subclass(self._own)

    def watch(self, **tensors):
        """These by name, each with all of its memory."""
        for name, tensor in tensors.items():
            self.watched[tensor.untyped_storage().data_ptr()] = (name, tensor, [])

    def catch_up(self):
        """The device does all that it was given."""
        for event in self.events:
            event.past = True

    def stream(self, name):
        return Stream(self, name)

    def new_stream(self):
        self._made += 1
        return Stream(self, f"stream {self._made}")

    def current_stream(self):
        return getattr(self._current, "stream", self.schedule)

    @contextmanager
    def on(self, stream):
        """What is called is given to the device after all that the host knows to be done."""
        before, self._current.stream = self.current_stream(), stream
        stream.learn(self.host.known)
        try:
            with _Watching(stream):
                yield
        finally:
            self._current.stream = before

    def to_device(self, tensor, dtype):
        return tensor.to(dtype)

    def add_event(self, known):
        self.events.append(Event(self, known))
        return self.events[-1]

    def wait(self, known):
        self.note_wait()
        self.host.learn(known)

    def note_wait(self):
        """Notes where the call of ours is that waits. What SGLang and tests do by themselves is theirs."""
        callers = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()]
        where = [call for call in callers if "/torch/" not in call and __file__ not in call][-1]
        if "/test/" not in where and ("/mempool/" in where or "/sglang_memserve/" in where):
            self.waits.append((threading.current_thread().name, where))

    def host_reads(self, tensor):
        self.host.touch(tensor, False)

    def host_writes(self, tensor):
        self.host.touch(tensor, True)
