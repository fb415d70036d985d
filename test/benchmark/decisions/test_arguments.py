"""What bench_decisions can be asked for."""

import pytest

from benchmark.decisions.arguments import DecisionsArguments, parsed


def test_without_flags_it_is_what_the_defaults_say():
    assert parsed([], "about") == DecisionsArguments()


def test_bandwidths_are_in_megabytes_a_second_and_begin_with_the_highest():
    assert parsed(["--bandwidths", "10", "200", "50"], "about").bandwidths == (200e6, 50e6, 10e6)
    assert parsed(["--part", "hot", "--rates", "1", "2.5"], "about").rates == (1.0, 2.5)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--lengths", "100"], "--lengths 100: give multiples of 16"),
        (["--lengths", "16000"], "--lengths 16000: give multiples of 16, up to 8000"),
        (["--bandwidths", "0.5"], "--bandwidths 0.5: give at least 2"),
        (["--rounds", "0"], "--rounds 0: give more than 0"),
        (["--rates", "1", "-2"], "--rates -2: give more than 0"),
        (["--seconds", "0"], "--seconds 0: give more than 0"),
    ],
)
def test_what_cannot_be_is_named(flags, says, capsys):
    with pytest.raises(SystemExit):
        parsed(flags, "about")
    assert says in capsys.readouterr().err
