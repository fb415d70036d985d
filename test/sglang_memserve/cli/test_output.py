"""Plain text in a pipe; colours, tables and progress on a terminal."""

import asyncio
import io
import subprocess
import sys

import pytest

from sglang_memserve.cli import main
from sglang_memserve.cli.output import show_styled, show_table
from sglang_memserve.cli.progress import Progress

LINES = [("role", "healthy", "tokens"), ("prefill", "yes", "1,200"), ("decode", "NO", "-")]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Makes stdout a terminal, once the test runs: pytest replaces it between set-up and test."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def make():
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    return make


def test_a_table_in_a_pipe_is_plain_columns(capsys):
    show_table(LINES, {"NO": "red"})
    assert (
        capsys.readouterr().out == "role     healthy  tokens\nprefill  yes      1,200\ndecode   NO       -\n"
    )


def test_a_table_on_a_terminal_has_colours(terminal):
    stream = terminal()
    show_table(LINES, {"NO": "red"})
    assert "\x1b[31mNO" in stream.getvalue()


def test_styles_are_for_terminals(capsys):
    show_styled([("a [b]", "red"), ("c", "")])
    assert capsys.readouterr().out == "a [b]\nc\n"


def test_a_styled_line_on_a_terminal(terminal):
    stream = terminal()
    show_styled([("a [b]", "red")])
    assert stream.getvalue() == "\x1b[31ma [b]\x1b[0m\n"


def test_progress_says_what_is_left():
    progress = Progress()
    for name, phase in (("router", "ready after 1.0 s"), ("prefill-0", "starting"), ("prefill-0", "loading")):
        progress.note(name, phase)
    assert progress.line == "1 of 2 ready after 0 s: prefill-0 loading"
    progress.note("prefill-0", "ready after 9.0 s")
    assert progress.line == "2 of 2 ready after 0 s: first requests"


async def test_progress_is_quiet_in_a_pipe(capsys):
    async with Progress().shown():
        await asyncio.sleep(0)
    assert capsys.readouterr().out == ""


async def test_progress_on_a_terminal_is_below_what_is_printed(terminal):
    stream, progress = terminal(), Progress()
    progress.note("prefill-0", "loading")
    async with progress.shown():
        async with asyncio.timeout(10):
            while "prefill-0 loading" not in stream.getvalue():
                await asyncio.sleep(0.01)
        print("a line")
    assert "a line\n" in stream.getvalue()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_flags(shell, capsys):
    assert main.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in ("doctor", "registry", "start-timeout", "retry-max-retries"):
        assert word in text


def test_bash_takes_the_completion():
    code = "import sys; from sglang_memserve.cli.main import main; sys.exit(main(['completion', 'bash']))"
    text = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60).stdout
    subprocess.run(["bash", "-n"], input=text, check=True, timeout=60)
