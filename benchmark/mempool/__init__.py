"""What bench_mempool measures: a module a part, each with `measure` and `bars`, and the processes they start.

`far` starts a process at one end of a wire and asks it; `end` is what runs there.
"""
