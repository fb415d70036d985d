"""An instance that does nothing but be a member: `run_member.py INSTANCE REGISTRY...`."""

import json
import signal
import sys

from mempool.layout import BlockLayout
from mempool.membership.client import MembershipClient
from mempool.membership.messages import InstanceInfo, new_incarnation

LAYOUT = BlockLayout(
    kind="mha", dtype="bfloat16", page_size=16, layers=4, heads=3, k_plane_bytes=6144, v_plane_bytes=6144
)


def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


def main():
    instance, *registries = sys.argv[1:]
    info = InstanceInfo(
        instance=instance,
        incarnation=new_incarnation(),
        role="prefill",
        layout=LAYOUT,
        namespace={"model": "m1", "kv_dtype": "bfloat16"},
        control="tcp://127.0.0.1:5000",
        data="tcp://127.0.0.1:5001",
    )
    member = MembershipClient(
        info,
        registries,
        on_change=lambda change: None,
        on_fenced=lambda old, new: say("fenced", old=old, new=new),
        on_stopped=lambda error: say("stopped", why=str(error)),
        heartbeat_s=0.1,
    )
    member.join(20)
    signal.pause()


if __name__ == "__main__":
    main()
