"""MemPool: KV blocks of many instances, moved and kept without knowing the engine that computed them.

Nothing is imported here, so that those who need the wire types alone do not load torch.
"""
