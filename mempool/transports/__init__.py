"""What carries the block channel's messages, chosen by URL. Imports no torch.

A transport moves messages, which are short lists of frames, between one listener and any number of
connections, in order, and notices on both ends that the other is gone. It knows nothing of blocks.
"""
