# ruff: noqa: E501
"""Every wrong flag, variable, value and file: one line that names it and what to do, and exit status 2."""

import importlib.util

import pytest

from sglang_memserve.cli import main

pytestmark = pytest.mark.usefixtures("sglangs_flags")


@pytest.fixture
def error(capsys):
    """Runs a command line that is wrong, and returns what it says."""

    def run(*argv):
        try:
            status = main.main(list(argv))
        except SystemExit as done:
            status = done.code
        out, err = capsys.readouterr()
        assert status == 2
        assert out == ""
        assert err.count("\n") == 1, err
        return err.rstrip()

    return run


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (
            "up --prefill 0 --decode 0",
            "memserve: --prefill 0 --decode 0 --colocated 0: nothing to start; give at least one --prefill and "
            "one --decode, or --colocated",
        ),
        ("up --prefill 2", "memserve: --prefill 2 --decode 0: one cannot serve without the other; give at least "
         "one of each, or use --colocated"),
        ("up --prefill x --decode 1", "memserve: --prefill 'x': expected int"),
        ("up --prefill -1 --decode 1", "memserve: --prefill -1: must be a number from 0 up"),
        ("up --port high", "memserve: --port 'high': expected int"),
        ("up --port 70000", "memserve: --port 70000: a port is a number from 1 to 65535"),
        ("up --threads 0", "memserve: --threads 0: must be a number greater than 0"),
        ("up --prefil 1", "memserve up: --prefil is no flag here: did you mean --prefill?"),
        ("up --pre 1", "memserve up: --pre is no flag here: did you mean --prefill?"),
        ("up --tp-size 2", "memserve up: --tp-size is no flag here: put flags of SGLang after `--`"),
        ("up stray", "memserve up: stray: there is nothing that takes this"),
        ("up -- --page-sise 16", "memserve: --page-sise: SGLang 0.5.23 has no such flag: did you mean --page-size?"),
        ("up -- --bogus", "memserve: --bogus: SGLang 0.5.23 has no such flag"),
        ("up -- --memserve-cachin 3", "memserve: --memserve-cachin: SGLang 0.5.23 has no such flag: did you mean "
         "--memserve-caching?"),
        ("up --model /not/there", "memserve: no model at /not/there: give an existing folder, or a hub name such "
         "as 'org/model'"),
        ("up -- --memserve-feed-port 7000", "memserve: --memserve-feed-port: 2 instances cannot listen at one port: "
         "leave it out"),
        ("up -f /not/there.yaml", "memserve: /not/there.yaml: No such file or directory"),
        ("instance --role prefil", "memserve instance: argument --role: invalid choice: 'prefil': did you mean prefill?"),
        ("instance --role decode --tp-size 2", "memserve instance: --tp-size is no flag here: put flags of SGLang "
         "after `--`"),
        ("instance --role decode -- --bogus", "memserve: --bogus: SGLang 0.5.23 has no such flag"),
        ("router --prot 1", "python -m router.launch_router: --prot is no flag here: did you mean --port?"),
        ("registry --bind nowhere", "registry: cannot listen on nowhere: not an endpoint: 'nowhere', give "
         "scheme://address"),
        ("registry --bnd x", "memserve registry: --bnd is no flag here: did you mean --bind?"),
        ("registry --death soon", "memserve registry: argument --death: invalid float value: 'soon'"),
        ("status --ur x", "memserve status: --ur is no flag here: did you mean --url?"),
        ("status --url 127.0.0.1:30000", "memserve: --url 127.0.0.1:30000: a URL begins with its scheme: give "
         "http://127.0.0.1:30000"),
        ("doctor --url ftp://x", "memserve: --url ftp://x is no URL of a server: give scheme, host and port, as in "
         "http://127.0.0.1:30000"),
        ("explain --url 10.0.0.1 hello", "memserve: --url 10.0.0.1: a URL begins with its scheme: give "
         "http://10.0.0.1"),
        ("status -- --tp-size 2", "memserve: --tp-size after `--`: `memserve status` starts no SGLang to pass it to"),
        ("bench --tp-size 2", "memserve bench: --tp-size is no flag here: put flags of SGLang after `--`"),
        ("", "memserve: the following arguments are required: COMMAND"),
        ("stauts", "memserve: argument COMMAND: invalid choice: 'stauts': did you mean status?"),
        ("bench --url x=10.0.0.1:1", "memserve: --url x=10.0.0.1:1: give NAME=URL, as in "
         "mine=http://127.0.0.1:30000"),
        ("calibrate --out /not/there/p.json", "memserve: --out /not/there/p.json: there is no folder /not/there"),
        ("calibrate --out /tmp/p.json --url 127.0.0.1:1", "memserve: --url 127.0.0.1:1: a URL begins with its "
         "scheme: give http://127.0.0.1:1"),
    ],
)  # fmt: skip
def test_a_wrong_command_line(argv, text, error):
    assert error(*argv.split()) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("MEMSERVE_ROUTER_PRT", "1", "memserve: MEMSERVE_ROUTER_PRT is set, and no setting has that name: did you "
         "mean MEMSERVE_ROUTER_PORT?"),
        ("MEMSERVE_CACHNG", "3", "memserve: MEMSERVE_CACHNG is set, and no setting has that name: did you mean "
         "MEMSERVE_CACHING?"),
        ("MEMSERVE_QQQ", "3", "memserve: MEMSERVE_QQQ is set, and no setting has that name: unset it"),
        ("MEMSERVE_RANK_PORT", "7000", "memserve: MEMSERVE_RANK_PORT is set, and 2 instances cannot listen there: "
         "unset it"),
        ("MEMSERVE_API_KEY", "two words", "memserve: MEMSERVE_API_KEY: give a key of printable ASCII without spaces, or "
         "leave it out"),
        ("MEMSERVE_PREFILL", "many", "memserve: MEMSERVE_PREFILL='many': expected int"),
        ("MEMSERVE_ROUTER_API_KEY", "K", "memserve: MEMSERVE_ROUTER_API_KEY is set: set MEMSERVE_API_KEY for the "
         "whole cluster instead"),
    ],
)  # fmt: skip
def test_a_wrong_variable(name, value, text, error, monkeypatch):
    monkeypatch.setenv(name, value)
    assert error("up") == text


def test_a_wrong_url_in_the_environment(error, monkeypatch):
    monkeypatch.setenv("MEMSERVE_URL", "10.0.0.1:30000")
    for command in (["status"], ["doctor"], ["explain", "hello"], ["bench"]):
        text = (
            "memserve: MEMSERVE_URL=10.0.0.1:30000: a URL begins with its scheme: give http://10.0.0.1:30000"
        )
        assert error(*command) == text


@pytest.mark.parametrize(
    ("yaml", "text"),
    [
        ("prefil: 1", "prefil: there is no such setting: did you mean prefill?"),
        ("prefill: {cuont: 1}", "prefill.cuont: there is no such setting: did you mean count?"),
        ("prefill: {count: x}", "prefill.count: 'x': expected int"),
        ("port: x", "port: 'x': expected int"),
        ("router: {polcy: random}", "router.polcy: there is no such setting: did you mean policy?"),
        ("router: {max_tree_size: 0}", "router.max_tree_size: 0: must be a number greater than 0"),
        ("router: {port: 1}", "router.port: `memserve up` sets it: leave it out of `router`"),
        ("router: 5", "router: 5: expected settings by name"),
        ("- 1", "expected settings by name, as in `port: 30000`"),
    ],
)
def test_a_wrong_cluster_file(yaml, text, error, tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml)
    assert error("up", "-f", str(file)) == f"memserve: {file}: {text}"


@pytest.mark.parametrize(
    "argv",
    [["up"], ["instance", "--role", "decode"], ["calibrate", "--out", "x"], ["bench", "--arms", "stock-pd"]],
)
def test_without_sglang_its_commands_say_how_to_install_it(argv, error, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sglang" else found(name))
    command = "bench --arms" if argv[0] == "bench" else argv[0]
    assert error(*argv) == (
        f"memserve: memserve {command} needs sglang: pip install '.[gpu]' (without a GPU: scripts/setup.sh)"
    )
