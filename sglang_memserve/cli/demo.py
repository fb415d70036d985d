"""A chat of three turns that shows what caching and the KV transfer did for each; and what to try next."""

from router.protocol.tls import ClientTls
from sglang_memserve.cli.chat_turn import chat_turn, kv_bytes_received, summary
from sglang_memserve.cli.output import show
from sglang_memserve.cluster import probe

_QUESTIONS = (
    "What is the capital of France?",
    "Name three things that a visitor should see there.",
    "Tell me more about the first one.",
)
_ANSWER_TOKENS = 64


async def run_chat(router: str, api_key: str | None = None, tls: ClientTls | None = None) -> None:
    """Holds the chat through `router` and prints it. Raises ClusterError if a turn fails."""
    history: list[dict[str, str]] = []
    async with probe.client(api_key, tls) as session:
        for number, question in enumerate(_QUESTIONS, 1):
            history.append({"role": "user", "content": question})
            before = await kv_bytes_received(session, router)
            turn = await chat_turn(session, router, history, max_tokens=_ANSWER_TOKENS)
            after = await kv_bytes_received(session, router)
            history.append({"role": "assistant", "content": turn.answer})
            moved = after - before if before is not None and after is not None else None
            show(f"\nTurn {number}: {question}\n  {turn.answer.strip()}\n  {summary(turn, moved)}")
    show("")


def examples(router: str, *, keyed: bool = False) -> str:
    """How to talk to the cluster from a shell and from Python; `keyed` if it asks for MEMSERVE_API_KEY."""
    header = ' -H "Authorization: Bearer $MEMSERVE_API_KEY"' if keyed else ""
    key = 'os.environ["MEMSERVE_API_KEY"]' if keyed else '"none"'
    imports = "import os\n  " if keyed else ""
    return f"""Try it{", with MEMSERVE_API_KEY set" if keyed else ""}:

  curl -N {router}/v1/chat/completions -H 'Content-Type: application/json'{header} -d \\
    '{{"model": "default", "stream": true, "messages": [{{"role": "user", "content": "Who are you?"}}]}}'

  {imports}from openai import OpenAI
  client = OpenAI(base_url="{router}/v1", api_key={key})
  messages = [{{"role": "user", "content": "What is a KV cache?"}}]
  answer = client.chat.completions.create(model="default", messages=messages)
  print(answer.choices[0].message.content)

`memserve status --url {router}` shows the instances. Ctrl-C stops all of them."""
