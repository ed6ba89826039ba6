"""A loaded model: its engine and everything around it that a request needs. Shared by `client` and `llm`.

The engine object is handed in, so this module knows only its methods: submit, abort, wait, stats, healthy, failure, stop.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pagoda.chat_template import ChatTemplate
from pagoda.generation import RequestState, TokenEvent
from pagoda.model_text import ModelText
from pagoda.tokenizer import Tokenizer

_SEED_BITS = 53  # a drawn seed survives JSON in every language


@dataclass(slots=True)
class LoadedModel:
    """`default_params` are the sampling defaults of the model, overlaid by those of the configuration."""

    name: str
    engine: Any
    text: ModelText
    default_params: dict[str, Any]

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None when the model was loaded without one."""
        return self.text.tokenizer

    @property
    def chat_template(self) -> ChatTemplate | None:
        """None when the model has none."""
        return self.text.chat_template

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: Any) -> RequestState:
        """Queues a request. A missing seed is drawn, values not given take the model's defaults.

        Raises InvalidArgument for a request that cannot be served, Overloaded when the queue is full, DeviceError when
        the engine has failed.
        """
        changes = {name: value for name, value in self.default_params.items() if name not in params.given}
        if params.seed is None:
            changes["seed"] = secrets.randbits(_SEED_BITS)
        params = params.clone(**changes)
        if params.stop and self.tokenizer is None:
            raise ValueError("stop needs a tokenizer, and the model was loaded without one; use stop_token_ids")
        state = RequestState(request_id, prompt_token_ids, params, self.tokenizer)
        self.engine.submit(request_id, list(prompt_token_ids), params, self._bad_word_tokens(params.bad_words))
        return state

    def absorb(self, state: RequestState, output: Any) -> TokenEvent | None:
        """The event an output makes; a choice that a stop string ended is ended in the engine too."""
        event = state.absorb(output)
        if event is not None and event.finish_reason is not None and output.finish is None:
            self.engine.abort(state.request_id, output.choice)
        return event

    def _bad_word_tokens(self, words: Sequence[str]) -> list[list[int]]:
        """Each word as tokens, at the start of a text and after a space."""
        if not words:
            return []
        if self.tokenizer is None:
            raise ValueError("bad_words needs a tokenizer, and the model was loaded without one")
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
        if self.chat_template is not None:
            self.chat_template.close()
