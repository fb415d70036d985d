"""SGLang's KV transfer backend `memserve`.

SGLang's common layer pairs ranks and keeps the state of each room (a request's rendezvous of a prefill and a
decode instance). Here decode's destination goes to prefill over the common layer's control socket; blocks,
handoff data and failures go from prefill to decode over the MemPool's block channel.
"""
