"""A module's JSON comes out of a process of its own, which does not outlive the deadline."""

from subprocess import PIPE, CalledProcessError

import pytest
from waiting import eventually

from sglang_memserve.cluster.json_output import json_output


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module, and returns its name."""

    def write(text):
        (tmp_path / "printing.py").write_text(text)
        return "printing"

    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return write


async def test_the_last_line_is_the_output(module):
    name = module("import json, sys\nprint('loading')\nprint(json.dumps(sys.argv[1:]))")
    assert await json_output([name, "--json", "a b"], 60) == ["--json", "a b"]


async def test_a_failure_has_status_and_stderr(module):
    name = module("import sys\nsys.exit('no such thing')")
    with pytest.raises(CalledProcessError) as error:
        await json_output([name], 60, stderr=PIPE)
    assert error.value.returncode == 1
    assert error.value.stderr == b"no such thing\n"


async def test_a_silent_one_is_killed_at_the_deadline(module, survivors, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_MARK_OF_MEMSERVE", str(tmp_path))
    name = module("import time\ntime.sleep(600)")
    with pytest.raises(TimeoutError):
        await json_output([name], 0.5)
    await eventually(lambda: not survivors())
