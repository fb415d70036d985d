"""A tokenizer by its name at a model hub: read from this machine's cache, and from nowhere else."""

import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models

# Any look-up of a host, and any connection, is on record.
LOAD = """
import socket, sys
asked = []
def refuse(*args, **kwargs):
    asked.append(args)
    raise OSError("no network")
socket.getaddrinfo = socket.socket.connect = refuse
from router.prompt.tokenizer import fingerprint
print(*(fingerprint(name).tokenizer is not None for name in sys.argv[1:]), len(asked))
"""


@pytest.fixture
def cache(tmp_path):
    """The home of a Hugging Face cache that has `org/model`."""
    model = tmp_path / "hub" / "models--org--model"
    snapshot = model / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    Tokenizer(models.BPE({"a": 0}, [])).save(str(snapshot / "tokenizer.json"))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    return tmp_path


def test_the_cache_is_read_and_no_network_is_asked(cache):
    argv = [sys.executable, "-c", LOAD, "org/model", "org/other", "no name at all"]
    environment = {"HF_HOME": str(cache), "PYTHONPATH": ":".join(sys.path)}
    printed = subprocess.check_output(argv, text=True, env=environment)
    assert printed.split() == ["True", "False", "False", "0"]
