"""The clients that people have get from the router what they get from a stock server."""

import json
import subprocess

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MODEL = "SmolLM2-135M-Instruct"
MESSAGES = (
    {"role": "system", "content": "You answer in one short sentence."},
    {"role": "user", "content": "Name a city in Japan."},
)


def openai_chat(url):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120)
    done = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0, max_tokens=20)
    return done.choices[0].message.content, done.choices[0].finish_reason, done.usage.prompt_tokens


def openai_stream(url):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120)
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, temperature=0, max_tokens=20, stream=True
    )
    pieces = [c.choices[0].delta.content for c in stream if c.choices and c.choices[0].delta.content]
    assert len(pieces) > 3
    return "".join(pieces)


def openai_completion(url):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120)
    done = client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=8
    )
    return done.choices[0].text, [model.id for model in client.models.list().data]


def curl_stream(url):
    body = {
        "text": "Once upon a time",
        "sampling_params": {"temperature": 0, "max_new_tokens": 12},
        "stream": True,
    }
    command = ["curl", "-sSN", "--max-time", "60", f"{url}/generate", "-H", "Content-Type: application/json"]
    out = subprocess.run(
        [*command, "-d", json.dumps(body)], capture_output=True, text=True, check=True
    ).stdout
    events = [line.removeprefix("data: ") for line in out.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert len(events) > 3
    return json.loads(events[-2])["text"]


def sglang_program(url):
    import sglang

    @sglang.function
    def two_questions(s, first, second):
        s += f"Q: {first}\nA:" + sglang.gen("one", max_tokens=12, stop="\n")
        s += f"\nQ: {second}\nA:" + sglang.gen("two", max_tokens=12, stop="\n")

    done = two_questions.run(
        first="What is the capital of Italy?",
        second="And of Spain?",
        temperature=0,
        backend=sglang.RuntimeEndpoint(url),
    )
    return done["one"], done["two"]


@pytest.mark.parametrize(
    "scenario", [openai_chat, openai_stream, openai_completion, curl_stream, sglang_program]
)
def test_a_client_gets_the_same_from_the_router(from_stock, one_p_one_d, scenario):
    expected = from_stock(scenario.__name__, scenario)
    assert all(expected)
    assert scenario(one_p_one_d.url) == expected
