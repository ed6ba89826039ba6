"""Incremental detokenizer: token ids in, finished text out, with stop strings found across tokens.

Owns the partial character and the text held back because it may become a stop string. One per choice of a request;
called by client.py as tokens arrive. Work per token is proportional to the text that the token adds.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from pagoda.tokenizer import ByteStream, Tokenizer


class StopMatcher:
    """Finds the first of several strings in a stream of characters (Aho-Corasick).

    Of matches that end at the same character the longest counts; otherwise the one that ends first. So the result does
    not depend on how the text was cut into tokens.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: non-empty strings."""
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        self._edges: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._match: list[str | None] = [None]  # the longest stop string that ends in this state
        for stop in stops:
            self._insert(stop)
        self._fail = [0] * len(self._edges)
        self._link()
        self._state = 0

    def _insert(self, stop: str) -> None:
        state = 0
        for char in stop:
            if char not in self._edges[state]:
                self._edges[state][char] = len(self._edges)
                self._edges.append({})
                self._depth.append(self._depth[state] + 1)
                self._match.append(None)
            state = self._edges[state][char]
        self._match[state] = stop

    def _link(self) -> None:
        """Failure links, breadth first: from a state to its longest proper suffix that is a prefix of some stop."""
        queue = list(self._edges[0].values())
        for state in queue:
            for char, child in self._edges[state].items():
                self._fail[child] = self._step(self._fail[state], char)
                self._match[child] = self._match[child] or self._match[self._fail[child]]
                queue.append(child)

    def _step(self, state: int, char: str) -> int:
        while state and char not in self._edges[state]:
            state = self._fail[state]
        return self._edges[state].get(char, 0)

    def push(self, char: str) -> str | None:
        """Feeds one character; returns the stop string that it completes, if any."""
        self._state = self._step(self._state, char)
        return self._match[self._state]

    @property
    def pending(self) -> int:
        """How many characters at the end may still become a stop string: at most the length of the longest one."""
        return self._depth[self._state]


class Detokenizer:
    """Text of one choice as it is generated.

    1. The released deltas and the tail of `finish` concatenate to `tokenizer.decode(ids)`, cut before (or, with
       `include_stop_str`, after) the first stop string.
    2. A delta never ends inside a character; U+FFFD appears only where the whole text has it.
    3. Nothing that may become part of a stop string is released, so nothing released is ever taken back. At most the
       longest stop string and one incomplete character are held back.
    4. A stop string counts only when it is completed by a token after the first `min_tokens`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        skip_special_tokens: bool = True,
        include_stop_str: bool = False,
        min_tokens: int = 0,
        strip_leading_space: bool = True,
    ) -> None:
        """`strip_leading_space=False` keeps the space of a SentencePiece first word: the text continues a prompt."""
        self._stream = ByteStream(tokenizer, skip_special_tokens, strip_leading_space)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._matcher = StopMatcher(stop) if stop else None
        self._include_stop = include_stop_str
        self._min_tokens = min_tokens
        self._held = ""
        self._finished = False
        self.num_tokens = 0  # tokens consumed, the one that completed the stop string included
        self.stopped: str | None = None  # the stop string that was found

    def push(self, token_ids: Iterable[int]) -> str:
        """Feeds tokens and returns the newly released text. Tokens after a stop string are ignored."""
        released = []
        for token_id in token_ids:
            if self.stopped is not None or self._finished:
                break
            self.num_tokens += 1
            released.append(self._feed(self._utf8.decode(self._stream.push(token_id))))
        return "".join(released)

    def finish(self) -> str:
        """Ends the text: what was held back, and U+FFFD for an incomplete last character. A second call returns ""."""
        if self.stopped is not None or self._finished:
            return ""
        self._finished = True
        tail = self._feed(self._utf8.decode(b"", final=True))
        held, self._held = self._held, ""
        return tail + held if self.stopped is None else tail

    def _feed(self, text: str) -> str:
        if self._matcher is None:
            return text
        text_before = len(self._held)
        self._held += text
        for i, char in enumerate(text):
            found = self._matcher.push(char)
            if found is not None and self.num_tokens > self._min_tokens:
                self.stopped = found
                end = text_before + i + 1
                released = self._held[: end if self._include_stop else end - len(found)]
                self._held = ""
                return released
        keep = len(self._held) - self._matcher.pending
        released, self._held = self._held[:keep], self._held[keep:]
        return released
