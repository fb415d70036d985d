"""A file of tenants, their keys, and what instances should get of them."""

import hashlib
import hmac
import json

SECRET = "s" * 32


def digest(key):
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def entry(name, **more):
    """A tenant whose key is `key-NAME`."""
    return {"name": name, "keys": [digest(f"key-{name}")], **more}


def write(path, *entries, secret=SECRET, mode=0o600, **more):
    """As JSON, which is YAML too; gives the path as text."""
    path.write_text(json.dumps({"secret": secret, "tenants": entries, **more}))
    path.chmod(mode)
    return str(path)


def bearer(name):
    return {"Authorization": f"Bearer key-{name}"}


def salt(group, own="", secret=SECRET):
    message = f"cache_salt\0{group}\0{own}".encode()
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def tag(name, secret=SECRET):
    return hmac.new(secret.encode(), f"rid\0{name}".encode(), hashlib.sha256).hexdigest()[:24] + "-"
