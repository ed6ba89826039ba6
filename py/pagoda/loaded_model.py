"""A loaded model: its engine and everything around it that a request needs. Shared by `client` and `llm`.

The engine object is handed in, so this module knows only its methods: submit, abort, wait, take_mask_jobs,
take_preemptions, stats, healthy, failure, stop.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pagoda.chat_template import ChatTemplate, encode_chat
from pagoda.config import InvalidArgument
from pagoda.generation import RequestState, TokenEvent
from pagoda.guided.grammar import Grammar
from pagoda.guided.guide import Guide
from pagoda.model_text import ModelText
from pagoda.preemption_log import PreemptionLog
from pagoda.tokenizer import Tokenizer

_SEED_BITS = 53  # a drawn seed survives JSON in every language


@dataclass(slots=True)
class LoadedModel:
    """`default_params` are the sampling defaults of the model, overlaid by those of the configuration."""

    name: str
    engine: Any
    text: ModelText
    default_params: dict[str, Any]
    preemption_log: PreemptionLog
    _guide: Guide | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None when the model was loaded without one."""
        return self.text.tokenizer

    @property
    def chat_template(self) -> ChatTemplate | None:
        """None when the model has none."""
        return self.text.chat_template

    def encode(self, text: str) -> list[int]:
        """A prompt's token ids. Raises InvalidArgument when the model was loaded without a tokenizer."""
        return self.require_tokenizer().encode(text)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[int]:
        """A conversation's token ids by the model's chat template.

        Raises InvalidArgument without tokenizer or template, TemplateError for messages the template does not take.
        """
        tokenizer = self.require_tokenizer()
        if self.chat_template is None:
            raise InvalidArgument("the model has no chat template; use a plain prompt, or set chat_template")
        return encode_chat(
            tokenizer,
            self.chat_template,
            list(messages),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises InvalidArgument when the model was loaded without one."""
        if self.tokenizer is None:
            raise InvalidArgument("the model was loaded without a tokenizer; prompts must be token ids")
        return self.tokenizer

    def submit(
        self, request_id: str, prompt_token_ids: Sequence[int], params: Any, tenant: str = "", pooling: str = "none"
    ) -> RequestState:
        """Queues a request. A missing seed is drawn, values not given take the model's defaults.

        `tenant` is on whose behalf it is; the scheduling policy "fair" shares the engine among tenants. `pooling`
        "mean" or "last" asks for the prompt's embedding instead of a continuation.

        Raises InvalidArgument for a request that cannot be served, Overloaded when the queue is full, DeviceError when
        the engine has failed.
        """
        changes = {name: value for name, value in self.default_params.items() if name not in params.given}
        if params.seed is None:
            changes["seed"] = secrets.randbits(_SEED_BITS)
        params = params.clone(**changes)
        if params.stop and self.tokenizer is None:
            raise InvalidArgument("stop needs a tokenizer, and the model was loaded without one; use stop_token_ids")
        state = RequestState(request_id, prompt_token_ids, params, self.tokenizer)
        bad_words, grammar = self._bad_word_tokens(params.bad_words), Grammar.of(params)
        if grammar is not None:
            self.guide().open(request_id, grammar, params.n)
        try:
            self.engine.submit(request_id, list(prompt_token_ids), params, bad_words, tenant, pooling)
        except BaseException:
            if grammar is not None:
                self.guide().drop(request_id, params.n)
            raise
        return state

    def guide(self) -> Guide:
        """Structured output for this model. Raises InvalidArgument when the model was loaded without a tokenizer."""
        with self._lock:
            if self._guide is None:
                if self.tokenizer is None:
                    raise InvalidArgument("structured output needs a tokenizer, and the model was loaded without one")
                self._guide = Guide(self.engine, self.tokenizer)
            return self._guide

    def compile(self, params: Any) -> None:
        """Makes a guided request's grammar ready, so that `submit` need not; may take a second or two.

        Raises InvalidArgument with the compiler's complaint.
        """
        grammar = Grammar.of(params)
        if grammar is not None:
            self.guide().compiler.matcher(grammar)

    def is_compiled(self, params: Any) -> bool:
        """Whether `submit` would find the grammar, if there is one, ready."""
        grammar = Grammar.of(params)
        return grammar is None or self.guide().compiler.knows(grammar)

    def wait(self, timeout_ms: int) -> list[Any]:
        """The engine's outputs since the last call, after waiting for the first; preemptions go to the log."""
        outputs: list[Any] = self.engine.wait(timeout_ms)
        self.preemption_log.write(self.engine.take_preemptions())
        return outputs

    def absorb(self, state: RequestState, output: Any) -> TokenEvent | None:
        """The event an output makes; a choice that a stop string ended is ended in the engine too."""
        event = state.absorb(output)
        if event is not None and event.finish_reason is not None and output.finish is None:
            self.engine.abort(state.request_id, output.choice, event.finish_reason == "stop")
        return event

    def _bad_word_tokens(self, words: Sequence[str]) -> list[list[int]]:
        """Each word as tokens, at the start of a text and after a space."""
        if not words:
            return []
        if self.tokenizer is None:
            raise InvalidArgument("bad_words needs a tokenizer, and the model was loaded without one")
        sequences: list[list[int]] = []
        for word in words:
            for spelling in (word.lstrip(" "), " " + word.lstrip(" ")):
                tokens = self.tokenizer.encode(spelling, add_special_tokens=False)
                if tokens and tokens not in sequences:
                    sequences.append(tokens)
        return sequences

    def close(self) -> None:
        """Stops the engine and the template's worker. Live requests are aborted. Idempotent."""
        self.engine.stop()
        if self._guide is not None:
            self._guide.close()
        if self.chat_template is not None:
            self.chat_template.close()
