"""SGLang frontend programs run against the router as against a stock server."""

import pytest
import sglang

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CAPITALS = ("France", "Italy", "Japan", "Egypt")


@sglang.function
def chat(s, first, second):
    s += sglang.system("You are a helpful assistant.")
    s += sglang.user(first) + sglang.assistant(sglang.gen("one", max_tokens=16))
    s += sglang.user(second) + sglang.assistant(sglang.gen("two", max_tokens=16))


@sglang.function
def fork_and_join(s):
    s += "Three facts about the sea.\n"
    forks = s.fork(3)
    for number, fork in enumerate(forks):
        fork += f"Fact {number}:" + sglang.gen("fact", max_tokens=8, stop="\n")
    forks.join()
    s += "".join(f"{number}.{fork['fact']}\n" for number, fork in enumerate(forks))
    s += "In short:" + sglang.gen("summary", max_tokens=12)


@sglang.function
def choose(s, country):
    s += f"Q: Which city is the capital of {country}?\nA: The capital of {country} is "
    s += sglang.select("city", choices=["Paris", "Rome", "Tokyo", "Cairo"])


# The only one of SGLang 0.5.23's choice methods that works with a server, stock ones included: the others
# take the mean of log-probabilities of which the first is None.
@sglang.function
def choose_of_unequal_length(s):
    s += "The colour of the clear sky is " + sglang.select(
        "colour", choices=["blue", "dark green"], choices_method=sglang.token_length_normalized
    )


@sglang.function
def dotted_number(s):
    s += "The IP address of the local host is " + sglang.gen(
        "address", max_tokens=16, regex=r"[0-9]{1,3}(\.[0-9]{1,3}){3}"
    )


@sglang.function
def capital(s, country):
    s += f"Q: What is the capital of {country}?\nA: The capital of {country} is" + sglang.gen(
        "city", max_tokens=3
    )


def multi_turn(backend):
    done = chat.run("Name a fruit.", "Name a sweeter one.", temperature=0, backend=backend)
    return done["one"], done["two"], done.messages()


def fork_join(backend):
    return fork_and_join.run(temperature=0, backend=backend).text()


def select(backend):
    cities = [choose.run(country, backend=backend)["city"] for country in CAPITALS]
    assert cities[0] == "Paris"
    return cities, choose_of_unequal_length.run(backend=backend)["colour"]


def regex(backend):
    return dotted_number.run(temperature=0, backend=backend)["address"]


def streaming(backend):
    state = chat.run("Name a fruit.", "Name a colour.", temperature=0, backend=backend, stream=True)
    pieces = list(state.text_iter("two"))
    assert len(pieces) > 3
    return "".join(pieces), state["one"]


def batch(backend):
    states = capital.run_batch(
        [{"country": country} for country in CAPITALS], temperature=0, backend=backend, num_threads=4
    )
    return [state["city"] for state in states]


@pytest.mark.parametrize("program", [multi_turn, fork_join, select, regex, streaming, batch])
def test_a_program_gives_the_same_through_the_router(from_stock, one_p_one_d, program):
    expected = from_stock(f"program: {program.__name__}", lambda url: program(sglang.RuntimeEndpoint(url)))
    assert all(expected)
    assert program(sglang.RuntimeEndpoint(one_p_one_d.url)) == expected
