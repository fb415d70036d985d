"""The block channel: aggregated KV blocks from one instance's buffers into another's, over ZeroMQ.

The receiver allocates, names the transfer with a ticket, and gives the ticket to the sender through a
control channel of the caller's. The sender's blocks land page by page, each message acknowledged once its
bytes are in place; a window of unacknowledged messages bounds staging memory and makes a slow receiver slow
its own sender only. Success on the sending side means that the receiver has everything.
"""
