"""The members of the cluster: instances register with every registry of a list and keep a heartbeat.

A registry is soft state: it has no disk, no leader and no word with other registries, and what it forgets in
a restart its instances tell it again. An instance sees the union of what its registries say.
"""
