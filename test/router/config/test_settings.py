"""Flags, environment and defaults."""

import pytest

from router.config.flags import make_parser, parse
from router.config.names import POLICY_ALIASES, POLICY_NAMES
from router.config.settings import ConfigError, PrefillUrl, RouterConfig, normalized
from router.launch_router import main
from router.policies import POLICIES

WORKER = ["--worker-urls", "http://a:1"]


def test_sglang_routers_flags():
    config = parse(
        [
            *("--pd-disaggregation", "--prefill", "http://p:1", "8998", "--prefill", "http://p:2/", "none"),
            *("--prefill", "http://p:3", "--decode", "http://d:1", "--decode", "http://d:2", "http://d:3"),
            *("--worker-urls", "http://c:1", "http://c:2", "--host", "0.0.0.0", "--port", "8080"),
            *("--policy", "round_robin", "--request-timeout-secs", "9.5", "--max-payload-size", "7"),
        ],
        {},
    )
    assert config.prefill == (
        PrefillUrl("http://p:1", 8998),
        PrefillUrl("http://p:2"),
        PrefillUrl("http://p:3"),
    )
    assert config.decode == ("http://d:1", "http://d:2", "http://d:3")
    assert config.colocated == ("http://c:1", "http://c:2")
    assert (config.host, config.port, config.request_timeout_secs) == ("0.0.0.0", 8080, 9.5)
    assert config.max_payload_size == 7


def test_flag_over_environment_over_default():
    environ = {"MEMSERVE_ROUTER_PORT": "1234", "MEMSERVE_ROUTER_LOG_LEVEL": "debug"}
    config = parse([*WORKER, "--port", "5"], environ)
    assert (config.port, config.log_level) == (5, "debug")
    assert parse(WORKER, environ).port == 1234
    assert parse(WORKER, {}) == RouterConfig(colocated=("http://a:1",))


def test_prometheus_gets_a_port_of_its_own_on_request():
    assert parse(WORKER, {}).prometheus_port is None
    config = parse([*WORKER, "--prometheus-port", "29000", "--prometheus-host", "0.0.0.0"], {})
    assert (config.prometheus_port, config.prometheus_host) == (29000, "0.0.0.0")
    assert parse(WORKER, {"MEMSERVE_ROUTER_PROMETHEUS_PORT": "29000"}).prometheus_port == 29000
    with pytest.raises(ConfigError, match="--prometheus-port 70000"):
        parse([*WORKER, "--prometheus-port", "70000"], {})
    with pytest.raises(ConfigError, match="expected int"):
        parse(WORKER, {"MEMSERVE_ROUTER_PROMETHEUS_PORT": "x"})


def test_keys_come_from_the_environment_and_show_nowhere():
    environ = {"MEMSERVE_ROUTER_API_KEY": "s3cret", "MEMSERVE_ROUTER_WORKER_API_KEY": "w0rker"}
    config = parse(WORKER, environ)
    assert (config.api_key, config.worker_api_key) == ("s3cret", "w0rker")
    assert "s3cret" not in repr(config)
    assert "w0rker" not in repr(config)
    with pytest.raises(ConfigError) as error:
        parse(WORKER, {"MEMSERVE_ROUTER_API_KEY": "s3 cret"})
    assert "cret" not in str(error.value).replace("--api-key", "")


def test_help_explains_every_setting_with_its_default():
    text = " ".join(make_parser().format_help().split())
    assert "(default: 30000)" in text
    assert "--worker-urls" in text
    assert "MEMSERVE_ROUTER_PORT" in text


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        (["--pd-disaggregation", *WORKER], {}, ["--pd-disaggregation", "--prefill"]),
        (["--prefill", "http://p:1"], {}, ["without --decode"]),
        (["--decode", "http://d:1"], {}, ["without --prefill"]),
        (["--worker-urls", "127.0.0.1:30000"], {}, ["'127.0.0.1:30000'", "http://"]),
        (["--worker-urls", "http://a:1/v1"], {}, ["'http://a:1/v1'"]),
        (["--worker-urls", "http://a:99999"], {}, ["'http://a:99999'"]),
        (["--worker-urls", "http://"], {}, ["'http://'"]),
        (["--worker-urls", "http://a:1", "http://a:1/"], {}, ["http://a:1", "twice"]),
        (["--prefill", "http://a:1", "--decode", "http://a:1"], {}, ["http://a:1", "twice"]),
        (["--prefill", "http://p:1", "x", "--decode", "http://d:1"], {}, ["http://p:1 x", "none"]),
        (["--prefill", "http://p:1", "1", "2", "--decode", "http://d:1"], {}, ["one bootstrap port"]),
        (["--prefill", "http://p:1", "70000", "--decode", "http://d:1"], {}, ["70000"]),
        ([*WORKER, "--port", "0"], {}, ["port 0", "65535"]),
        ([*WORKER, "--request-timeout-secs", "-1"], {}, ["--request-timeout-secs -1"]),
        ([*WORKER, "--connect-timeout-secs", "nan"], {}, ["--connect-timeout-secs nan"]),
        ([*WORKER, "--health-check-endpoint", "x"], {}, ["--health-check-endpoint 'x'"]),
        ([*WORKER, "--api-key", ""], {}, ["--api-key: give a key"]),
        (WORKER, {"MEMSERVE_ROUTER_WORKER_API_KEY": ""}, ["MEMSERVE_ROUTER_WORKER_API_KEY: give a key"]),
        ([*WORKER, "--api-key", "two words"], {}, ["--api-key", "without spaces"]),
        (WORKER, {"MEMSERVE_ROUTER_PORT": "many"}, ["MEMSERVE_ROUTER_PORT='many'", "int"]),
        (WORKER, {"MEMSERVE_ROUTER_POLICY": "magic"}, ["'magic'", "round_robin"]),
    ],
)
def test_a_wrong_value_is_named(argv, environ, words):
    with pytest.raises(ConfigError) as error:
        parse(argv, environ)
    for word in words:
        assert word in str(error.value)


def test_trees_are_fed_by_events_by_default():
    assert parse(WORKER, {}).tree_update == "events"
    assert parse([*WORKER, "--tree-update", "response"], {}).tree_update == "response"
    with pytest.raises(ConfigError, match="tree_update 'magic' is unknown; known: events, response"):
        parse(WORKER, {"MEMSERVE_ROUTER_TREE_UPDATE": "magic"})


def test_an_unknown_policy_is_refused_with_the_list(capsys):
    with pytest.raises(SystemExit) as exit:
        parse([*WORKER, "--policy", "magic"], {})
    assert exit.value.code == 2
    text = capsys.readouterr().err
    assert "'magic'" in text
    assert "'round_robin'" in text


@pytest.mark.parametrize("name", ["cache_aware", "power_of_two", "random", "round_robin"])
def test_sglang_routers_policies_are_known_by_their_names(name):
    assert parse([*WORKER, "--policy", name], {}).policy == name


@pytest.mark.parametrize(
    ("profile", "words"),
    [("/not/there.json", ["memserve calibrate"]), (__file__, ["is not a profile"])],
)
def test_a_profile_that_cannot_be_read_ends_main_with_2(capsys, free_port, profile, words):
    assert main([*WORKER, "--port", str(free_port()), "--profile", profile]) == 2
    text = capsys.readouterr().err
    assert f"router: --profile {profile}" in text
    assert "Traceback" not in text
    for word in words:
        assert word in text


def test_policies_are_those_that_settings_name():
    assert tuple(POLICIES) == POLICY_NAMES
    assert set(POLICY_ALIASES.values()) <= set(POLICIES)


def test_main_says_what_is_wrong_without_a_traceback(capsys):
    assert main(["--worker-urls", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("router: 'nonsense' is not an instance's URL")


@pytest.mark.parametrize(
    ("given", "known_as"),
    [
        ("http://H2:30002", "http://h2:30002"),
        ("HTTP://h:1/", "http://h:1"),
        ("http://h:80", "http://h"),
        ("https://h:443/", "https://h"),
        ("http://h:443", "http://h:443"),
        ("http://10.0.0.5:030001", "http://10.0.0.5:30001"),
        ("  http://h:9\t", "http://h:9"),
        ("http://[FE80:0::1]:9", "http://[fe80::1]:9"),
        # No URL of an instance: left for the error that quotes it.
        ("http://h:9/v1", "http://h:9/v1"),
        ("http://h:99999", "http://h:99999"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_an_instance_is_known_by_one_way_to_write_its_address(given, known_as):
    assert normalized(given) == known_as
    assert normalized(known_as) == known_as


@pytest.mark.parametrize("second", ["http://A:1/", "http://a:01", " http://a:1"])
def test_one_server_under_two_spellings_is_given_twice(second):
    with pytest.raises(ConfigError, match="http://a:1 is given twice"):
        RouterConfig(colocated=("http://a:1",), decode=(second,), prefill=(PrefillUrl("http://p:1"),))
    with pytest.raises(ConfigError, match="http://a:1 is given twice"):
        RouterConfig(decode=("http://a:1",), prefill=(PrefillUrl(second),))
