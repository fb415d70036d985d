"""`memserve chat` against a router that stands in for ours."""

import asyncio
import os
import signal
import subprocess

import pytest

from sglang_memserve.cli import main


@pytest.fixture
def memserve_chat(router, forked_python):
    return [*forked_python(), "-m", "sglang_memserve.cli.main", "chat", "--url", router.url]


@pytest.fixture
def chat(memserve_chat):
    """Holds a chat with these lines; returns its exit code and output."""

    async def run(*lines, argv=()):
        command = [*memserve_chat, *argv]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate("".join(f"{line}\n" for line in lines).encode())
        return process.returncode, out.decode(), err.decode()

    return run


async def test_each_turn_carries_the_turns_before_it(chat, router):
    code, _, err = await chat("Hi", "", "And you?", "/quit", "never sent")
    assert (code, err) == (0, "")
    roles = [[message["role"] for message in body["messages"]] for body in router.asked]
    assert roles == [["user"], ["user", "assistant", "user"]]
    assert [message["content"] for message in router.asked[1]["messages"]] == [
        "Hi",
        "The answer.",
        "And you?",
    ]
    assert all(body["stream"] for body in router.asked)


async def test_after_each_turn_it_shows_what_caching_did(chat):
    _, out, _ = await chat("Hi", "Again")
    assert out.count("The answer.\n") == 2
    assert out.count("prompt 44 tokens, 32 cached") == 2
    assert out.count("TTFT ") == 2
    assert out.count("1.50 MB") == 2


async def test_clear_begins_anew_with_the_system_message(chat, router):
    await chat("Hi", "/clear", "Hello", argv=["--system", "Be brief."])
    roles = [[message["role"] for message in body["messages"]] for body in router.asked]
    assert roles == [["system", "user"], ["system", "user"]]


async def test_a_turn_that_fails_leaves_no_trace(chat, router):
    router.events = [{"error": {"message": "decode died"}}]
    code, _, err = await chat("Hi", "Again")
    assert code == 0
    assert err.count("decode died") == 2
    assert [len(body["messages"]) for body in router.asked] == [1, 1]


async def test_an_unknown_command_is_not_sent(chat, router):
    _, out, _ = await chat("/help me")
    assert "/help me: there is no such command; /clear" in out
    assert router.asked == []


async def test_a_missing_key_is_named(chat, router):
    router.api_key = "K"
    code, _, err = await chat("Hi")
    assert code == 2
    assert "401: the router asks for its API key: set MEMSERVE_API_KEY or --api-key" in err
    assert err.count("\n") == 1


def test_no_router_is_named(free_port, capsys):
    assert main.main(["chat", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "does not answer" in capsys.readouterr().err


async def test_ctrl_c_stops_an_answer_and_not_the_chat(router, memserve_chat):
    router.hold = asyncio.Event()
    process = await asyncio.create_subprocess_exec(
        *memserve_chat, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    process.stdin.write(b"Hi\n")
    async with asyncio.timeout(60):
        while not router.asked:
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert b"stopped" in await process.stdout.readuntil(b"(stopped)\n")
        router.hold.set()
        out, err = await process.communicate(b"Again\n")
    assert (process.returncode, err) == (0, b"")
    assert b"The answer." in out
    assert [len(body["messages"]) for body in router.asked] == [1, 1]
