"""The file of tenants: what is wrong in it is refused by name, and no key or secret is ever shown."""

import pytest
from tenant_files import SECRET, bearer, digest, entry, write

from router.config.explain import ConfigError
from router.tenants.directory import Tenants
from router.tenants.file import read


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tenants.yaml"


def key_of(name):
    return bearer(name)["Authorization"].split()[1]


def test_yaml_is_read_with_its_limits(path):
    path.write_text(
        f"""
secret: {SECRET}
tenants:
  - name: acme
    keys: ["{digest("a")}", "{digest("b")}"]
    group: company
    requests_in_flight: 3
    tokens_per_minute: 1000
    prompt_tokens: 100
  - name: other
    keys: ["{digest("c")}"]
"""
    )
    path.chmod(0o600)
    acme, other = read(path).tenants
    assert (acme.sharing_group, other.sharing_group) == ("company", "other")
    assert (acme.requests_in_flight, acme.tokens_per_minute, acme.prompt_tokens) == (3, 1000, 100)
    assert (other.requests_in_flight, other.tokens_per_minute, other.prompt_tokens) == (None, None, None)
    tenants = Tenants(path)
    assert tenants.of("a") is tenants.of("b")
    assert tenants.of("c").name == "other"
    assert tenants.of("") is tenants.of("d") is tenants.of("acme") is tenants.of(digest("a")) is None


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry("a b")], ["tenants.0.name: 'a b'", "letters"]),
        ([entry("")], ["tenants.0.name: ''"]),
        ([entry("a\0b")], ["tenants.0.name"]),
        ([entry("a"), entry("b", requests_in_flight=0)], ["tenants.1.requests_in_flight: 0", "greater"]),
        ([entry("a", tokens_per_minute="many")], ["tenants.0.tokens_per_minute: 'many'", "int"]),
        ([entry("a", prompt_tokens=-1)], ["tenants.0.prompt_tokens: -1"]),
        ([entry("a", limit=1)], ["tenants.0.limit", "no such setting"]),
        ([{"name": "a"}], ["tenants.0.keys"]),
        ([{"name": "a", "keys": []}], ["tenants.0.keys"]),
        ([entry("a", keys=["sha256:xyz"])], ["tenants.0.keys.0", "memserve tenant-key"]),
        ([entry("a", keys=[digest("a").upper()])], ["tenants.0.keys.0"]),
        ([entry("a"), entry("a", keys=[digest("x")])], ["name: 'a'", "two tenants"]),
        ([entry("a"), entry("b", keys=[digest("key-a")])], [digest("key-a"), "twice"]),
        ([entry("a"), entry("b", group="a")], ["group: 'a'", "shares with nobody"]),
        ("a", ["tenants: 'a'", "list"]),
    ],
)
def test_what_is_wrong_is_named_with_its_value(path, entries, words):
    write(path, *entries) if entries != "a" else write(path, tenants="a")
    with pytest.raises(ConfigError) as error:
        read(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_groups_may_have_a_members_name_if_it_shares_too(path):
    write(path, entry("a", group="a"), entry("b", group="a"))
    assert [tenant.sharing_group for tenant in read(path).tenants] == ["a", "a"]


def test_neither_a_key_nor_the_secret_is_quoted(path):
    write(path, entry("a", keys=["sk-the-key-itself"]))
    with pytest.raises(ConfigError) as error:
        read(path)
    assert "sk-the" not in str(error.value)
    write(path, secret="too-short")
    with pytest.raises(ConfigError, match="secret: a secret has 32 characters") as error:
        read(path)
    assert "too-short" not in str(error.value)


@pytest.mark.parametrize(
    ("mode", "words"), [(0o640, "chmod 600"), (0o604, "chmod 600"), (0o622, "chmod go-w")]
)
def test_a_file_that_others_reach_is_refused(path, mode, words):
    write(path, entry("a"), mode=mode)
    with pytest.raises(ConfigError, match=words):
        read(path)


def test_a_file_without_a_secret_may_be_read_but_not_written(path):
    write(path, entry("a"), secret="", mode=0o644)
    with pytest.raises(ConfigError, match="secret: there is none"):
        Tenants(path)
    assert Tenants(path, b"t" * 32).of(key_of("a")).name == "a"
    with pytest.raises(ConfigError, match="--tenants-secret: give 32 characters"):
        Tenants(path, b"t" * 31)
    path.chmod(0o664)
    with pytest.raises(ConfigError, match="others may write it"):
        read(path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "tenants: [", "\xff", "x: 1"])
def test_what_is_no_such_file_is_refused(path, text):
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"tenants\.yaml"):
        Tenants(path)


def test_a_file_that_is_not_there_is_named(path):
    with pytest.raises(ConfigError, match=r"tenants\.yaml: No such file"):
        Tenants(path)


def test_a_wrong_file_changes_nothing_when_it_is_read_again(path):
    write(path, entry("a"))
    tenants = Tenants(path)
    before = tenants.of(key_of("a"))
    write(path, entry("a", requests_in_flight=0), entry("b"))
    with pytest.raises(ConfigError, match=r"tenants\.0\.requests_in_flight: 0"):
        tenants.reload()
    assert tenants.of(key_of("a")) is before
    assert tenants.of(key_of("b")) is None


def test_what_runs_still_counts_after_a_change(path):
    write(path, entry("a"), entry("gone"))
    tenants = Tenants(path)
    old, gone = tenants.of(key_of("a")), tenants.of(key_of("gone"))
    with old.quota.request(), gone.quota.request():
        write(path, entry("a", requests_in_flight=5, keys=[digest("new")]))
        tenants.reload()
        new = tenants.of("new")
        assert tenants.of(key_of("a")) is tenants.of(key_of("gone")) is None
        assert (new.quota.in_flight, new.quota.limits.requests_in_flight) == (1, 5)
        assert {name: quota.in_flight for name, quota in tenants} == {"a": 1, "gone": 1}
    assert new.quota.in_flight == 0
    tenants.reload()
    assert [name for name, _ in tenants] == ["a"]
