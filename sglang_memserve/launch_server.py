"""SGLang's server with MemServe's defaults: `python -m sglang_memserve.launch_server <SGLang's flags>`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mempool.caching_mode import CachingMode
from mempool.endpoints import is_loopback_host
from mempool.security.access import UnprotectedAddress
from mempool.sockets import endpoint_of
from sglang_memserve.compat import BACKEND
from sglang_memserve.options import InstanceOptions, OptionError, check_variables, help_text, take

API_KEY_VARIABLE = "MEMSERVE_INSTANCE_API_KEY"
CPU_PLATFORM = "memserve_cpu"
_CPU = (
    "--device",
    "cpu",
    "--attention-backend",
    "torch_native",
    "--disable-cuda-graph",
    "--sleep-on-idle",
)
_OTHER_CACHES = (
    "--disable-radix-cache",
    "--radix-cache-backend",
    "--enable-hierarchical-cache",
    "--enable-lmcache",
    "--enable-flexkv",
    "--enable-unified-cache-external-linker",
    "--enable-kv-cache-sharding",
    "--enable-int8-mamba-checkpoint",
)
_MAY_NAME_A_HUB_MODEL = (
    "--tokenizer-path",
    "--lora-paths",
    "--speculative-draft-model-path",
    "--speculative-draft-model",
    "--speculative-token-map",
    "--config",
)


def with_defaults(argv: list[str], *, cuda: bool, caching: str = InstanceOptions.caching) -> list[str]:
    """`argv` with MemServe's defaults put before it, so that whatever the user gives wins."""
    return default_flags(argv, cuda=cuda, caching=caching) + argv


def default_flags(argv: list[str], *, cuda: bool, caching: str = InstanceOptions.caching) -> list[str]:
    """MemServe's defaults for an instance that is given `argv`.

    `caching`: see `InstanceOptions`; `--disable-radix-cache` keeps nothing on its instance, whatever it says.
    """
    role = value_of(argv, "--disaggregation-mode")
    defaults = ["--page-size", "16", "--enable-cache-report"]
    if not cuda:
        defaults += _CPU
    if role == "prefill":
        # Decode's answer, where the KV is to go, comes while the prompt is computed.
        defaults += ["--optimistic-prefill-attempts", "1"]
    if role in ("prefill", "decode"):
        defaults += ["--disaggregation-transfer-backend", BACKEND]
        defaults += _cache(argv, role, caching, cuda)
    else:
        defaults += _colocated_cache(argv, caching)
    return defaults


def _colocated_cache(argv: list[str], caching: str) -> list[str]:
    """Nothing where SGLang itself knows of another cache that is asked for."""
    if not CachingMode(caching).keeps_kv("colocated"):
        return ["--disable-radix-cache"]
    return [] if given(argv, *_OTHER_CACHES) else ["--radix-cache-backend", BACKEND]


def _cache(argv: list[str], role: str, caching: str, cuda: bool) -> list[str]:
    if CachingMode(caching).keeps_kv(role) and not given(argv, "--disable-radix-cache"):
        ours = ["--radix-cache-backend", BACKEND]
        return [*ours, "--disaggregation-decode-enable-radix-cache"] if role == "decode" else ours
    # SGLang's own choice without a decode radix cache is a host pool that needs CUDA's copy kernels.
    backup = ["--disaggregation-decode-retraction-backup", "cpu_tensor"]
    return ["--disable-radix-cache", *(backup if role == "decode" and not cuda else [])]


def given(argv: list[str], *names: str) -> bool:
    """Whether one of the flags is there, as `--flag value` or `--flag=value`."""
    return any(arg in names or arg.split("=", 1)[0] in names for arg in argv)


def value_of(argv: list[str], *names: str) -> str | None:
    """The last value given for a flag of these names, or None."""
    value = None
    for i, arg in enumerate(argv):
        flag, equals, rest = arg.partition("=")
        if flag in names:
            value = rest if equals else next(iter(argv[i + 1 :]), None)
    return value


def main(argv: list[str] | None = None) -> int:
    """Serves until a signal stops it. Returns 2, with the reason on stderr, for a wrong value or variable."""
    from sglang_memserve.model import ModelError

    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        check_environment(os.environ)
        check_variables(os.environ)
        if given(argv, "-h", "--help"):
            print(
                f"{__doc__}\nWithout --model-path: the embedded model.\n\n{help_text()}\nSGLang's flags:\n",
                flush=True,
            )
        else:
            argv = _with_model(argv)
        options, argv = take(argv)
        _check_access(options, argv)
        options.publish(os.environ)
    except (ModelError, OptionError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    _serve(argv)
    return 0


def _check_access(options: InstanceOptions, argv: list[str]) -> None:
    """Before the model is loaded. Raises OptionError where an instance of a split would serve everybody."""
    access = options.access()
    if access.caveat:
        print(access.caveat, file=sys.stderr)
    if value_of(argv, "--disaggregation-mode") in ("prefill", "decode"):
        address = os.environ.get("SGLANG_HOST_IP") or value_of(argv, "--host") or "127.0.0.1"
        try:
            access.check_bind(endpoint_of("tcp", address, 0))
        except UnprotectedAddress as error:
            raise OptionError(str(error)) from None


def check_environment(environ: Mapping[str, str]) -> None:
    """Raises OSError if a variable of SGLang's would leave MemServe's plug-in out without a word."""
    platform = environ.get("SGLANG_PLATFORM")
    if platform not in (None, "", CPU_PLATFORM):
        raise OSError(f"SGLANG_PLATFORM={platform} switches MemServe's plug-in off: unset it")
    plugins = environ.get("SGLANG_PLUGINS", "")
    missing = {BACKEND, CPU_PLATFORM} - {name.strip() for name in plugins.split(",")}
    if plugins and missing:
        raise OSError(
            f"SGLANG_PLUGINS={plugins} leaves out {' and '.join(sorted(missing))}: add that or unset it"
        )


def _with_model(argv: list[str]) -> list[str]:
    """Names the model, and keeps SGLang off the network when that is all it needs and a local folder."""
    from sglang_memserve.model import resolve_model
    from sglang_memserve.model.embedded import EMBEDDED_NAME

    name = value_of(argv, "--model-path", "--model")
    if name is None and given(argv, "--config"):
        return argv
    path = resolve_model(name)
    if Path(path).is_dir() and not given(argv, *_MAY_NAME_A_HUB_MODEL):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if name is None:
        return ["--model-path", path, "--served-model-name", EMBEDDED_NAME, *argv]
    return argv


def _serve(argv: list[str]) -> None:
    # How often, in seconds, SGLang looks whether the client of an unstreamed request is still there. Its own
    # 4 are long for a batch, which has no one name to abort it by. Read once, when SGLang is imported.
    os.environ.setdefault("SGLANG_REQUEST_STATE_WAIT_TIMEOUT", "1")
    import torch
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    # Not a flag: those can be read by everybody on the machine.
    api_key = os.environ.pop(API_KEY_VARIABLE, None)
    caching = InstanceOptions.from_environment().caching
    argv = with_defaults(_expanded(argv), cuda=torch.cuda.is_available(), caching=caching)
    if is_loopback_host(value_of(argv, "--host") or "127.0.0.1"):
        # Otherwise SGLang tells its peers, and listens for them on, the address of a network interface.
        os.environ.setdefault("SGLANG_HOST_IP", "127.0.0.1")
    # Where the plug-in looks, here and in the processes that SGLang spawns, for what it is asked to do.
    sys.argv[1:] = argv
    load_plugins()
    server_args = prepare_server_args(argv)
    if api_key:
        server_args.api_key = api_key
    try:
        run_server(server_args)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def _expanded(argv: list[str]) -> list[str]:
    """With a `--config` file written out as flags: SGLang itself would let our defaults override it."""
    if not given(argv, "--config"):
        return argv
    import argparse

    from sglang.srt.server_args import ServerArgs
    from sglang.srt.utils.server_args_config_parser import ConfigArgumentMerger

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return list(ConfigArgumentMerger(parser).merge_config_with_args(argv))


if __name__ == "__main__":
    sys.exit(main())
