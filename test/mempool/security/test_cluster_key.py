"""The cluster's secret: where it may come from, and that it goes nowhere else."""

import os
import pickle

import pytest

from mempool.security.cluster_key import FILE_VARIABLE, KEY_VARIABLE, ClusterKey, ClusterKeyError

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "cluster.key"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return path


def test_a_file_and_the_environment_give_the_same_key(key_file):
    expected = ClusterKey(SECRET)
    assert ClusterKey.read(key_file) == expected
    assert ClusterKey.from_environment({KEY_VARIABLE: SECRET}) == expected
    assert ClusterKey.from_environment({FILE_VARIABLE: str(key_file)}) == expected
    assert ClusterKey.from_environment({KEY_VARIABLE: "x" * 40}, file=str(key_file)) == expected
    assert ClusterKey.from_environment({}) is None


def test_a_child_process_finds_the_key_that_it_is_given(key_file):
    environ = {FILE_VARIABLE: str(key_file)} | ClusterKey(SECRET).to_environment()
    assert ClusterKey.from_environment(environ) == ClusterKey(SECRET)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o777])
def test_a_file_that_others_may_reach_is_refused_by_mode(key_file, mode):
    key_file.chmod(mode)
    with pytest.raises(ClusterKeyError, match=f"{mode:04o}") as error:
        ClusterKey.read(key_file)
    assert str(key_file) in str(error.value)
    assert "chmod 600" in str(error.value)


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_a_file_of_the_owner_alone_is_read(key_file, mode):
    key_file.chmod(mode)
    assert ClusterKey.read(key_file) == ClusterKey(SECRET)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in ("missing", "pipe", "."):
        with pytest.raises(ClusterKeyError, match="the cluster key"):
            ClusterKey.read(tmp_path / path)


@pytest.mark.parametrize("secret", ["", "short", "x" * 31, " " * 40, "x" * 4097])
def test_a_secret_of_a_wrong_length_is_refused(secret, key_file):
    with pytest.raises(ClusterKeyError, match="bytes: give 32 to 4096"):
        ClusterKey(secret)
    key_file.write_text(secret)
    with pytest.raises(ClusterKeyError, match=str(key_file)):
        ClusterKey.read(key_file)


def test_a_flag_wins_over_a_named_file_and_that_over_a_text(key_file, tmp_path):
    other = tmp_path / "other.key"
    other.write_text("y" * 40)
    other.chmod(0o600)
    environ = {KEY_VARIABLE: "x" * 40, FILE_VARIABLE: str(key_file)}
    assert ClusterKey.from_environment(environ) == ClusterKey(SECRET)
    assert ClusterKey.from_environment(environ, file=str(other)) == ClusterKey("y" * 40)


def test_each_purpose_and_each_secret_has_a_key_of_its_own():
    key = ClusterKey(SECRET)
    derived = {key.derive("a"), key.derive("b"), key.derive("a", 16), ClusterKey(SECRET + "!").derive("a")}
    assert len(derived) == 4
    assert key.derive("a") == ClusterKey(SECRET).derive("a")
    assert len(key.derive("a", 16)) == 16


def test_generated_keys_differ():
    assert ClusterKey.generate() != ClusterKey.generate()


def test_the_secret_is_not_shown_or_pickled():
    key = ClusterKey(SECRET)
    assert SECRET not in f"{key!r} {key} {[key]}"
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_no_error_shows_the_secret():
    with pytest.raises(ClusterKeyError) as error:
        ClusterKey.from_environment({KEY_VARIABLE: "a secret word"})
    assert "a secret word" not in str(error.value)
    assert KEY_VARIABLE in str(error.value)
