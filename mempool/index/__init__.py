"""The MemPool's index: which prefix of tokens is in which blocks, of which owners. Imports no torch.

A radix tree over whole blocks (`tree`), with one root a namespace. A node's key is one bytes object, so that
a walk is one dict look-up and one memcmp a node. A node holds, for each owner that has it, the numbers of all
its blocks. `state` does what follows from each change, `events` says what a reader needs to follow them, and
`index` is the public face.
"""
