"""A certificate authority, and what it signs, in files and for servers."""

import datetime
import ssl

import trustme


class Authority:
    """`trust`: the file that names it."""

    def __init__(self, folder, name):
        self._folder = folder / name
        self._folder.mkdir()
        self._ca = trustme.CA(organization_name=name)
        self.trust = str(self._folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.trust)

    def files(self, name, *identities, expired=False):
        """Certificate and key, as paths."""
        until = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) if expired else None
        begun = datetime.datetime(2019, 1, 1, tzinfo=datetime.UTC) if expired else None
        issued = self._ca.issue_cert(*identities or ("127.0.0.1",), not_before=begun, not_after=until)
        cert, key = (self._folder / f"{name}.{half}.pem" for half in ("cert", "key"))
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return str(cert), str(key)

    def server(self, *identities, clients=None, **how):
        """What a server speaks TLS with. `clients`: the authority whose certificates it asks clients for."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.files(f"server{len(list(self._folder.iterdir()))}", *identities, **how))
        if clients is not None:
            context.load_verify_locations(clients.trust)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self):
        """What a client speaks TLS with that believes this authority alone."""
        return ssl.create_default_context(cafile=self.trust)
