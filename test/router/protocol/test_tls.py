"""Certificates and keys out of files: what is wrong with them is said before the router serves."""

import ssl
import subprocess

import pytest
from certificates import Authority

from router.config.settings import ConfigError, RouterConfig
from router.protocol.tls import ClientTls, ServerTls


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ours")


def test_a_pair_that_belongs_together_is_taken(authority):
    assert ServerTls(*authority.files("a")).context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_what_does_not_belong_together_is_named(authority, tmp_path):
    cert, key = authority.files("a")
    _, other_key = authority.files("b")
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    for pair, said in (
        ((cert, other_key), f"--tls-key-path {other_key} is not the key of --tls-cert-path {cert}"),
        (("/no/such.pem", key), "--tls-cert-path /no/such.pem: No such file"),
        ((cert, str(tmp_path)), f"--tls-key-path {tmp_path}: Is a directory"),
        ((str(nothing), key), "no certificate and key in PEM"),
        ((cert, str(nothing)), "no certificate and key in PEM"),
    ):
        with pytest.raises(ConfigError) as refused:
            ServerTls(*pair)
        assert said in str(refused.value)
        with pytest.raises(ConfigError) as refused:
            ClientTls((), *pair)
        assert said.replace("--tls", "--client") in str(refused.value)


def test_an_encrypted_key_is_refused_without_a_question(authority, tmp_path):
    cert, key = authority.files("a")
    encrypted = str(tmp_path / "encrypted.pem")
    command = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", encrypted]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    with pytest.raises(ConfigError, match="the key is encrypted"):
        ServerTls(cert, encrypted)


def test_authorities_stand_for_the_systems(authority):
    assert ClientTls().context is True
    context = ClientTls((authority.trust,)).context
    assert len(context.get_ca_certs()) == 1
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


def test_a_file_without_an_authority_is_named(authority, tmp_path):
    _, key = authority.files("a")
    for file in (key, "/no/such.pem"):
        with pytest.raises(ConfigError, match=f"--ca-cert-paths {file}"):
            ClientTls((authority.trust, file))


@pytest.mark.parametrize("kind", ["tls", "client"])
@pytest.mark.parametrize("half", ["cert", "key"])
def test_half_a_pair_is_refused(kind, half):
    with pytest.raises(ConfigError, match=f"--{kind}-{half}-path without"):
        RouterConfig(**{f"{kind}_{half}_path": "/x.pem"})
