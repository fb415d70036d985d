"""sglang_router's own mock tests, before it and before our router: what it passes, ours passes.

They come from its source distribution, as they are. They start a router as `python3 -m
sglang_router.launch_router`: for ours that module is a line that calls our own.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[3]
PEERS = ROOT / ".peers"
SOURCES = "sglang_router-*.tar.gz"
TESTS = "py_test/integration_mock"
OURS, THEIRS = "ours", "sglang_router"
LAUNCHER = "import sys\n\nfrom router.launch_router import main\n\nsys.exit(main())\n"


class MockTests:
    """The tests, in a folder of their own: they write certificates beside themselves."""

    def __init__(self, source, folder, python_path):
        with tarfile.open(source) as archive:
            base = source.name.removesuffix(".tar.gz")
            wanted = [member for member in archive if member.name.startswith(f"{base}/py_test/")]
            archive.extractall(folder, wanted, filter="data")
        self._source = folder / base
        # Not the tests' own folder: Python looks there first, and it may have half of a sglang_router.
        self._folder = folder
        self._configuration = folder / "pytest.ini"
        self._configuration.write_text("[pytest]\n")
        # The tests start `python3`.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._env = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(map(str, python_path))}

    def passed(self, tests=(TESTS,)):
        """Whether each test passed, by name."""
        report = self._folder / "report.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", self._configuration]
        command += ["--rootdir", self._source, "--junit-xml", report, "--timeout", "240"]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*command, *(self._source / test for test in tests)],
                cwd=self._folder,
                env=self._env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                process.wait()
            finally:
                # Whatever a test has left behind goes with it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert report.exists(), (self._folder / "log").read_text()[-5000:]
        return {_name(case): not list(case) for case in ElementTree.parse(report).iter("testcase")}

    def passed_in_two(self):
        """What fails at first is run once more, alone: the machine may have been busy."""
        passed = self.passed()
        assert passed
        failed = [test for test, well in passed.items() if not well]
        return passed | self.passed(failed) if failed else passed


def _name(case):
    return f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}"


@pytest.mark.full
@pytest.mark.timeout(5400)
def test_ours_passes_what_sglang_router_passes(tmp_path, capsys):
    source = next(PEERS.glob(SOURCES), None)
    if source is None:
        pytest.skip("sglang_router and its tests are not here: run scripts/setup_peers.sh")
    launcher = tmp_path / "launcher"
    (launcher / "sglang_router").mkdir(parents=True)
    (launcher / "sglang_router" / "__init__.py").touch()
    (launcher / "sglang_router" / "launch_router.py").write_text(LAUNCHER)
    passed = {}
    for router, python_path in ((THEIRS, [PEERS]), (OURS, [launcher, ROOT])):
        folder = tmp_path / router
        folder.mkdir()
        passed[router] = MockTests(source, folder, python_path).passed_in_two()
    assert passed[OURS].keys() == passed[THEIRS].keys()
    with capsys.disabled():
        print(f"\n{THEIRS:13} {OURS:6} {source.name}")
        for test, well in passed[THEIRS].items():
            words = ["passed" if each else "FAILED" for each in (well, passed[OURS][test])]
            print(f"{words[0]:13} {words[1]:6} {test.removeprefix(TESTS + '/')}")
    # Else nothing is compared: a machine that is too busy for sglang_router.
    assert sum(passed[THEIRS].values()) > 0.7 * len(passed[THEIRS])
    assert [test for test, well in passed[THEIRS].items() if well and not passed[OURS][test]] == []
