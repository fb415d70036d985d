"""What is asked: the paper's scheduler test. A set of sessions, each had by several users, mixed."""

from dataclasses import replace
from random import Random

from sglang_memserve.bench.workloads.form import Workload

USERS = 3
# Together about 3.1 requests a session, as in the paper: 80 sessions, 250 requests.
LOOGLE = {"in_turn": True, "questions": (2, 4)}


def duplicated(workload: Workload, users: int, rate: float, seed: int) -> Workload:
    """Every session `users` times, under a name of its own each time, in an order drawn from all orders.

    They arrive at random, `rate` a second in all.
    """
    rng, now, sessions = Random(f"{seed} users"), 0.0, []
    copies = [(session, user) for session in workload.sessions for user in range(users)]
    for session, user in rng.sample(copies, len(copies)):
        now += rng.expovariate(rate)
        sessions.append(replace(session, name=f"{session.name}, user {user}", arrival=now))
    return Workload(f"{workload.name}, {users} users", tuple(sessions))
