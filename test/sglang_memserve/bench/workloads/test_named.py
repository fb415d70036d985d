import pytest

from sglang_memserve.bench.workloads.errors import WorkloadError
from sglang_memserve.bench.workloads.named import option_names, trace_files, workload, workload_names

LENGTHS = "sharegpt_v3_sessions_llama2tok.jsonl"
TEXTS = "ShareGPT_V3_unfiltered_cleaned_split.json"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        WorkloadError, match="'sharegtp': known are sharegpt, loogle, react, no-sharing, moon"
    ):
        workload("sharegtp", {})


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(WorkloadError, match=r"react has no option 'document': it takes sessions, .*prefix"):
        workload("react", {"document": (1, 2)})
    assert "share_ratio" in option_names("loogle")


@pytest.mark.parametrize("name", ["sharegpt", "loogle", "react", "no-sharing"])
def test_without_traces_it_is_generated_and_named_so(name, tmp_path):
    assert workload(name, {"sessions": 3}).name == name
    assert workload(name, {"sessions": 3}, tmp_path).name == name


@pytest.mark.parametrize("name", ["mooncake", "azure"])
def test_a_trace_without_its_file_says_which_file_it_looks_for(name, tmp_path):
    with pytest.raises(WorkloadError, match=f"give the directory that holds {trace_files(name)[0]}"):
        workload(name, {}, tmp_path)
    with pytest.raises(WorkloadError, match="not None"):
        workload(name, {})


def test_the_file_is_read_where_it_is(tmp_path):
    (tmp_path / LENGTHS).write_text('{"session": 0, "turns": [[5, 7]]}\n')
    made = workload("sharegpt", {"scale": 0.5}, tmp_path)
    assert made.name == f"sharegpt ({LENGTHS})"
    assert [turn.output_tokens for turn in made.sessions[0].turns] == [4]


def test_the_text_is_preferred_to_the_lengths_where_it_can_be_read(tmp_path, words):
    (tmp_path / LENGTHS).write_text('{"session": 0, "turns": [[5, 7]]}\n')
    (tmp_path / TEXTS).write_text(
        '[{"id": "a", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}]'
    )
    assert workload("sharegpt", {}, tmp_path, words).name == f"sharegpt ({TEXTS})"
    assert workload("sharegpt", {}, tmp_path).name == f"sharegpt ({LENGTHS})"


def test_text_without_a_tokenizer_is_refused_rather_than_left_aside(tmp_path):
    (tmp_path / trace_files("loogle")[0]).write_text("")
    with pytest.raises(WorkloadError, match="needs a tokenizer"):
        workload("loogle", {}, tmp_path)


def test_a_directory_that_is_none_is_refused(tmp_path):
    with pytest.raises(WorkloadError, match="elsewhere is no directory"):
        workload("sharegpt", {}, tmp_path / "elsewhere")


def test_every_name_has_options_and_says_which_files_it_reads():
    for name in workload_names():
        assert {"sessions", "rate", "seed", "scale", "max_context"} <= set(option_names(name))
    assert trace_files("no-sharing") == ()


def test_options_may_be_text_as_a_command_line_gives_them():
    made = workload("sharegpt", {"sessions": "3", "scale": "0.5"})
    assert made == workload("sharegpt", {"sessions": 3, "scale": 0.5})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sessions": "many"}, "sessions is 'many': expected"),
        ({"document": ["1"]}, r"document is ['1']: expected"),
        ({"scale": 2}, "scale is 2.0: expected over 0 and at most 1"),
        ({"share_ratio": 0}, "share_ratio is 0: expected at least 1"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_its_value(options, said):
    with pytest.raises(WorkloadError) as error:
        workload("loogle", options)
    assert said in str(error.value)


def test_a_generated_workload_needs_a_number_of_sessions():
    with pytest.raises(WorkloadError, match="sessions is None: expected a number"):
        workload("react", {"sessions": None})
