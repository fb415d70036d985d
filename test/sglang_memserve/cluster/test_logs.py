from sglang_memserve.cluster.logs import last_errors


def write(tmp_path, *lines):
    log = tmp_path / "instance.log"
    log.write_text("\n".join(lines))
    return log


def test_the_exception_is_found_and_the_noise_is_not(tmp_path):
    log = write(
        tmp_path,
        "[2026-01-01] server_args=ServerArgs(log_level='error', model='x')",
        "[2026-01-01] Ignore import error when loading sglang.srt.models.mamba: no module named 'x'",
        "[2026-01-01] Load weight begin.",
        "Traceback (most recent call last):",
        '  File "scheduler.py", line 10, in run',
        "torch.OutOfMemoryError: tried to allocate 20 GiB",
        "[2026-01-01] Shutting down",
    )
    assert last_errors(log) == ["torch.OutOfMemoryError: tried to allocate 20 GiB"]


def test_the_last_ones_are_taken_once_each_in_their_order(tmp_path):
    log = write(tmp_path, "error: 1", "error: 2", "error: 3", "error: 2", "fine")
    assert last_errors(log, count=2) == ["error: 3", "error: 2"]


def test_without_any_error_the_last_lines_are_shown(tmp_path):
    assert last_errors(write(tmp_path, "one", "", "two", "three"), count=2) == ["two", "three"]


def test_a_long_line_is_cut(tmp_path):
    (line,) = last_errors(write(tmp_path, "error: " + "x" * 10_000))
    assert len(line) < 300


def test_a_missing_log_says_nothing(tmp_path):
    assert last_errors(tmp_path / "none.log") == []
