# Types of the extension module (cpp/bindings). Members of SamplingParams and EngineOptions follow their field rows.
from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import Buffer

class InvalidArgument(ValueError): ...

class Overloaded(RuntimeError):
    retry_after_s: float

class DeviceError(RuntimeError): ...
class InternalError(RuntimeError): ...

SAMPLING_FIELDS: list[dict[str, Any]]
ENGINE_FIELDS: list[dict[str, Any]]
STATS_FIELDS: list[dict[str, Any]]

class SamplingParams:
    def __init__(self, **values: Any) -> None: ...
    n: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    logit_bias: dict[int, float]
    allowed_token_ids: list[int]
    bad_words: list[str]
    min_tokens: int
    max_tokens: int | None
    stop: list[str]
    stop_token_ids: list[int]
    ignore_eos: bool
    include_stop_str_in_output: bool
    skip_special_tokens: bool
    logprobs: int | None
    prompt_logprobs: int | None
    guided_json: str
    guided_regex: str
    guided_choice: list[str]
    guided_grammar: str
    priority: int
    cache_salt: str
    given: set[str]
    def clone(self, **changes: Any) -> SamplingParams: ...
    def to_dict(self) -> dict[str, Any]: ...

class EngineOptions:
    def __init__(self, **values: Any) -> None: ...
    device: str
    isa: str
    weight_format: str
    num_threads: int
    max_model_len: int | None
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    memory_utilization: float | None
    kv_cache_memory: int | None
    num_kv_blocks: int | None
    kv_cache_dtype: str
    deterministic: bool
    prefix_cache: bool
    scheduling_policy: str
    preemption_mode: str
    swap_space: float | None
    watermark: float
    long_prefill_token_threshold: int | None
    max_num_queued_seqs: int
    max_num_queued_tokens: int | None
    num_traced_seqs: int
    structured_output_timeout_s: float
    speculative: dict[str, Any] | None
    given: set[str]
    def clone(self, **changes: Any) -> EngineOptions: ...
    def to_dict(self) -> dict[str, Any]: ...

class TokenLogprobs:
    logprob: float
    rank: int
    top_tokens: list[int]
    top_logprobs: list[float]

class Output:
    request_id: str
    choice: int
    tokens: list[int]
    logprobs: list[TokenLogprobs]
    prompt_logprobs: list[TokenLogprobs]
    finish: str | None
    stop_token: int
    num_cached_tokens: int
    num_prompt_computed: int
    embedding: list[float]
    error: str

class MaskJob:
    request_id: str
    choice: int
    token: int | None
    closed: bool
    address: int
    size_bytes: int
    def finish(self, ended: bool = ..., error: str = ...) -> None: ...

class Preemption:
    request_id: str
    choice: int
    swapped: bool
    swap_was_full: bool
    num_tokens: int
    num_blocks: int
    free_blocks_before: int
    free_blocks_after: int
    num_running: int
    total: int

class Engine:
    def __init__(
        self,
        path: str,
        options: EngineOptions,
        eos_tokens: Callable[[], Sequence[int]] | None = ...,
        progress: Callable[[int, int], None] | None = ...,
        library_folders: Sequence[str] = ...,
        cache_folder: str = ...,
    ) -> None: ...
    def submit(
        self,
        request_id: str,
        prompt: Sequence[int],
        params: SamplingParams,
        bad_words: Sequence[Sequence[int]] = ...,
        tenant: str = ...,
    ) -> None: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...
    def abort(self, request_id: str, choice: int = ..., stopped: bool = ...) -> None: ...
    def wait(self, timeout_ms: int) -> list[Output]: ...
    def take_mask_jobs(self, most: int, timeout_ms: int, min_age_ms: int = ...) -> list[MaskJob] | None: ...
    def take_preemptions(self) -> list[Preemption]: ...
    def reset_prefix_cache(self) -> None: ...
    def stats(self) -> dict[str, int | float]: ...
    def histograms(self) -> dict[str, tuple[list[int], float]]: ...
    def timelines(self, prefix: str = ...) -> list[dict[str, Any]]: ...
    def steps(self) -> list[tuple[float, float, int, int]]: ...
    def stalled_seconds(self) -> float: ...
    def healthy(self) -> bool: ...
    def failure(self) -> str: ...
    def stop(self) -> None: ...
    plan: dict[str, Any]
    info: dict[str, Any]

def plan_memory(path: str, options: EngineOptions) -> dict[str, Any]: ...
def gguf_metadata(path: str) -> dict[str, Any]: ...
def dequantise(format: str, data: Buffer, cols: int) -> bytes: ...
def quantise(format: str, values: Buffer, cols: int) -> bytes: ...
def inspect_model(path: str, weight_format: str = ...) -> dict[str, Any]: ...
def scan_weights(
    path: str, num_threads: int = ..., progress: Callable[[int, int], None] | None = ...
) -> dict[str, Any]: ...
def write_gguf(
    path: str,
    tensors: Sequence[tuple[str, str, list[int], int, int]] | None,
    weight_format: str,
    metadata: Sequence[tuple[str, str, Any]],
    out: str,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]: ...
def write_directory(
    path: str,
    tensors: Sequence[tuple[str, str, list[int], int, int]] | None,
    weight_format: str,
    is_quantised: bool,
    out: str,
    max_file_bytes: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]: ...
def cpu_info(isa: str = ..., num_threads: int = ...) -> dict[str, Any]: ...
def cuda_info() -> dict[str, Any]: ...
def find_cuda_library(folders: Sequence[str]) -> str: ...
