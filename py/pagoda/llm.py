"""`LLM`: a model in this process, for batches of prompts. The familiar offline class of vLLM.

Owns a loaded model; drives the engine from the calling thread.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from tqdm import tqdm

from pagoda.client import load_model
from pagoda.config import DeviceError, InternalError, InvalidArgument, Overloaded, SamplingParams, load_config
from pagoda.generation import RequestState
from pagoda.outputs import CompletionOutput, RequestOutput
from pagoda.tokenizer import Tokenizer
from pagoda.vectors import unit_vector

_WAIT_MS = 1000

Prompt = str | Sequence[int]


class LLM:
    """One model, ready for `generate` and `chat`. For one thread at a time; close it or use it in a `with` block."""

    def __init__(self, model: str = "smollm2-135m", *, skip_tokenizer: bool = False, **engine_options: Any) -> None:
        """`model`: an alias, a directory in Hugging Face layout, a .gguf file, or a hub id.

        `engine_options` are the options of section `engine`, `gpu_memory_utilization` included; `skip_tokenizer` loads
        no tokenizer, prompts are then token ids. Raises ConfigError, InvalidArgument, ValueError or OSError for what
        cannot be used, DeviceError when the device fails.
        """
        settings = {"name": str(model), "skip_tokenizer": skip_tokenizer}
        config = load_config(values={"model": settings, "engine": engine_options})
        self._model = load_model(config)
        self._engine = self._model.engine
        self._ids = itertools.count()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the engine; requests that run elsewhere end with abort. Idempotent."""
        self._model.close()

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None with skip_tokenizer."""
        return self._model.tokenizer

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises InvalidArgument when the model was loaded without one."""
        return self._model.require_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """What `generate` uses when no parameters are given: the model's generation_config.json over the defaults."""
        return SamplingParams(**self._model.default_params)

    def stats(self) -> dict[str, int | float]:
        """Counters and gauges of the engine as of its last step: num_running, num_preemptions, ..."""
        return dict(self._engine.stats())

    def describe(self) -> dict[str, Any]:
        """Facts of the model and the device, and the memory plan; sizes in bytes."""
        return {**self._engine.info, **self._engine.plan}

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Continues every prompt; results in the order of the prompts.

        `prompts` are texts or lists of token ids; one prompt may stand alone. `params` is one for all or one for each;
        values they do not give fall back to the model's generation_config.json. Raises InvalidArgument when a request
        can never be served (the rest of the call is then aborted), DeviceError when the engine fails. A request that
        fails alone has finish_reason `error`.
        """
        batch = _as_batch(prompts)
        all_params = self._params_for(batch, params)
        outputs = [self._new_output(prompt, own) for prompt, own in zip(batch, all_params, strict=True)]
        _Run(self._model, outputs, all_params, use_tqdm).run()
        return outputs

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[RequestOutput]:
        """Answers one conversation or a list of them, each a list of `{"role": ..., "content": ...}`.

        Raises InvalidArgument without a chat template, TemplateError for messages it does not take.
        """
        conversations: Any = [messages] if messages and isinstance(messages[0], Mapping) else messages
        prompts = [
            self._model.encode_chat(conversation, add_generation_prompt, continue_final_message)
            for conversation in conversations
        ]
        return self.generate(prompts, params, use_tqdm)

    def embed(
        self, prompts: Prompt | Sequence[Prompt], pooling: str = "last", normalize: bool = True, use_tqdm: bool = True
    ) -> list[list[float]]:
        """The embedding of every prompt: its last hidden states after the final norm, as one vector of the hidden size.

        `pooling`: "last" takes that of the last token, "mean" the mean of all. `normalize` makes the length 1. Raises
        InvalidArgument for a request that cannot be served, InternalError for hidden states that are not numbers.
        """
        batch = _as_batch(prompts)
        params = [SamplingParams(max_tokens=1)] * len(batch)
        outputs = [self._new_output(prompt, params[0]) for prompt in batch]
        _Run(self._model, outputs, params, use_tqdm, pooling).run()
        for output in outputs:
            if output.embedding is None:
                raise InternalError(
                    output.outputs[0].error or f"the request ended with {output.outputs[0].finish_reason}"
                )
        vectors = [output.embedding or [] for output in outputs]
        return [unit_vector(vector) for vector in vectors] if normalize else vectors

    def _params_for(
        self, batch: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[SamplingParams]:
        if params is None:
            params = SamplingParams()
        if isinstance(params, SamplingParams):
            return [params] * len(batch)
        if not isinstance(params, Sequence) or not all(isinstance(own, SamplingParams) for own in params):
            raise InvalidArgument(f"params must be SamplingParams or a list of them, got {type(params).__name__}")
        if len(params) != len(batch):
            raise InvalidArgument(f"params must be one, or one per prompt: got {len(params)} for {len(batch)} prompts")
        return list(params)

    def _new_output(self, prompt: Prompt, params: SamplingParams) -> RequestOutput:
        text = prompt if isinstance(prompt, str) else None
        if isinstance(prompt, bytes) or not isinstance(prompt, Sequence):
            raise InvalidArgument(f"a prompt must be a text or a list of token ids, got {type(prompt).__name__}")
        ids = self._model.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not all(issubclass(kind, int) and kind is not bool for kind in set(map(type, ids))):
            raise InvalidArgument("prompt must be a text or a list of token ids")
        choices = [CompletionOutput(index) for index in range(params.n)]
        return RequestOutput(f"llm-{next(self._ids)}", text, ids, choices)


def _as_batch(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, bytes) or not isinstance(prompts, Sequence):
        raise InvalidArgument(f"prompts must be a list of texts or of lists of token ids, got {type(prompts).__name__}")
    batch: list[Any] = list(prompts)
    return [batch] if batch and isinstance(batch[0], int) else batch


class _Run:
    """One call of `generate`: keeps the engine's queue filled and collects events until all requests have ended."""

    def __init__(
        self,
        model: Any,
        outputs: list[RequestOutput],
        params: list[SamplingParams],
        use_tqdm: bool,
        pooling: str = "none",
    ) -> None:
        self._model = model
        self._pooling = pooling
        self._outputs = {output.request_id: output for output in outputs}
        self._waiting = list(zip(reversed(outputs), reversed(params), strict=True))
        self._states: dict[str, RequestState] = {}
        self._bar = tqdm(total=len(outputs), desc="Generating", unit="req", dynamic_ncols=True, disable=not use_tqdm)
        self._num_tokens = 0
        self._start = time.monotonic()

    def run(self) -> None:
        """Ends with every output finished, or with nothing of this call left in the engine."""
        try:
            with self._bar:
                self._start_together()
                while self._waiting or self._states:
                    self._submit()
                    self._collect()
        finally:
            for request_id in self._states:
                self._model.engine.abort(request_id)

    def _start_together(self) -> None:
        """What the queue takes begins with the same step, so that an idle engine takes the same steps in every run."""
        engine = self._model.engine
        engine.hold()
        try:
            self._submit()
        finally:
            engine.release()

    def _submit(self) -> None:
        while self._waiting:
            output, params = self._waiting[-1]
            try:
                state = self._model.submit(output.request_id, output.prompt_token_ids, params, pooling=self._pooling)
            except Overloaded:
                if not self._states:
                    raise
                return
            self._states[output.request_id] = state
            self._waiting.pop()

    def _collect(self) -> None:
        engine = self._model.engine
        outputs = self._model.wait(_WAIT_MS)
        if not outputs and not engine.healthy():
            raise DeviceError(engine.failure() or "the engine was stopped")
        for part in outputs:
            state = self._states.get(part.request_id)
            if state is None:
                continue
            event = self._model.absorb(state, part)
            if event is None:
                continue
            self._outputs[part.request_id].add(event)
            self._num_tokens += len(event.token_ids)
            if state.finished:
                del self._states[part.request_id]
                self._bar.update()
        rate = self._num_tokens / max(1e-9, time.monotonic() - self._start)
        self._bar.set_postfix_str(f"{rate:.1f} tokens/s", refresh=False)
