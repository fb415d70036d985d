"""MemServe's own flags, out of SGLang's command line."""

import pytest

from mempool.flags import TransferMode
from sglang_memserve.options import TRANSFER, InstanceOptions, OptionError, take


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("MEMSERVE_CACHING", "MEMSERVE_DRAM", "MEMSERVE_TRANSFER", "MEMSERVE_MAX_BANDWIDTH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "given",
    [
        ["--memserve-caching", "2", "--memserve-dram=1GiB"],
        ["--memserve-caching=2", "--memserve-dram", "1GiB"],
    ],
)
def test_our_flags_are_taken_and_sglangs_left(given):
    options, rest = take(["--port", "1", *given, "--tp-size=2"])
    assert options == InstanceOptions(caching="2", dram="1GiB")
    assert rest == ["--port", "1", "--tp-size=2"]


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch):
    assert take([])[0].caching == "3"
    monkeypatch.setenv("MEMSERVE_CACHING", "1")
    assert take([])[0].caching == "1"
    assert take(["--memserve-caching", "basic"])[0].caching == "basic"


def test_spawned_processes_find_what_was_asked_for(monkeypatch):
    environ = {}
    InstanceOptions(caching="1", dram="2GiB").publish(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert InstanceOptions.from_environment() == InstanceOptions(caching="1", dram="2GiB")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--memserve-caching", "4"], "--memserve-caching 4: choose from basic, 1, 2, 3"),
        (["--memserve-transfer", "layers"], "--memserve-transfer layers: choose from aggregated, by-layer"),
        (["--memserve-max-bandwidth", "10%"], "--memserve-max-bandwidth: '10%' is not a size"),
        (["--memserve-max-bandwidth", "1000"], "--memserve-max-bandwidth 1000: give at least 1MiB, or 0"),
        (["--memserve-caching"], "--memserve-caching needs a value"),
        (["--memserve-caching", "--port"], "--memserve-caching needs a value"),
        (["--memserve-cachnig", "3"], "--memserve-cachnig: there is no such flag"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(argv, says):
    with pytest.raises(OptionError, match=says):
        take(argv)


def test_transfer_modes_are_those_of_the_block_channel():
    assert set(TRANSFER) == set(TransferMode)


def test_the_size_of_dram_is_what_was_given_or_fits_the_host():
    assert take(["--memserve-dram", "0"])[0].dram_beside("cuda") == "0"
    assert take([])[0].dram_beside("cuda") == "2%"
    assert take([])[0].dram_beside("cpu") == "256MiB"


def test_the_bound_on_what_is_sent_is_none_or_a_size_in_bytes():
    assert take([])[0].max_bytes_per_second == 0
    assert take(["--memserve-max-bandwidth", "100MiB"])[0].max_bytes_per_second == 100 << 20
