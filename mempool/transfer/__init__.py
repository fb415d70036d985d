"""The block channel: KV blocks from one instance's stores into another's.

The receiver allocates, names the transfer with a ticket, and gives the ticket to the sender through a
control channel of the caller's. Each message of blocks is acknowledged once its bytes are in place; the
receiver grants every connection a window of unacknowledged bytes, which bounds staging memory and makes a
slow receiver slow its own senders only. Transfers to one receiver take turns, a message each. Success on the
sending side means that the receiver has everything.
"""
