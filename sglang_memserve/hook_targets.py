"""The functions of SGLang that MemServe hooks into, by their full names."""

from enum import StrEnum

from sglang_memserve.cpu_host import on_cpu

_PREFILL = "sglang.srt.disaggregation.prefill"
_DECODE = "sglang.srt.disaggregation.decode"
_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
_STREAMER = "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer"
_TOKENIZER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"


class Target(StrEnum):
    CHECK_SERVER_ARGS = "sglang.srt.arg_groups.validation_hook.check_server_args"
    RESOLVED_ARGS = "sglang.srt.server_args.ServerArgs.resolved_dict"
    KV_CLASS = "sglang.srt.disaggregation.utils.get_kv_class"
    PREFILL_MANAGER = f"{_PREFILL}.PrefillBootstrapQueue._init_kv_manager"
    DECODE_MANAGER = f"{_DECODE}.DecodePreallocQueue._init_kv_manager"
    PREFILL_QUEUE = f"{_PREFILL}.PrefillBootstrapQueue.add"
    DECODE_QUEUE = f"{_DECODE}.DecodePreallocQueue.add"
    EARLY_PREFILL = f"{_PREFILL}.PrefillBootstrapQueue.can_prefill_before_bootstrap"
    SEND_CACHED_PREFIX = f"{_PREFILL}.SchedulerDisaggregationPrefillMixin.maybe_send_cached_prefix_chunk"
    COLOCATED_QUEUE = f"{_SCHEDULER}._add_request_to_queue"
    NEW_PREFILL_BATCH = f"{_SCHEDULER}.get_new_batch_prefill"
    RUN_BATCH = f"{_SCHEDULER}.run_batch"
    INIT_DISAGGREGATION = f"{_SCHEDULER}.init_disaggregation"
    INGEST_REQUESTS = f"{_SCHEDULER}.ingest_requests"
    INTERNAL_STATE = f"{_SCHEDULER}.get_internal_state"
    INIT_INFO = f"{_SCHEDULER}.get_init_info"
    STREAM_OUTPUT = f"{_STREAMER}.stream_output"
    BATCH_REQUEST = f"{_TOKENIZER}._handle_batch_request"
    VALIDATE_REQUEST = f"{_TOKENIZER}._validate_one_request"
    SEND_REQUEST = f"{_TOKENIZER}._send_one_request"
    # Hooked on MemServe's CPU platform alone.
    LAST_LOC = "sglang.srt.mem_cache.allocation.get_last_loc"


def targets() -> tuple[Target, ...]:
    """Those that this process hooks into."""
    return tuple(target for target in Target if target is not Target.LAST_LOC or on_cpu())
