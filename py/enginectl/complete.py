"""Continue one prompt; the text goes to stdout as it is made.

With `--json` stdout gets one JSON object and nothing else. Without a tokenizer (`--skip-tokenizer`) the prompt and
the output are token ids. Exit code 1 when the generation failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import sys
import time
from typing import Any

from enginectl.console import fail, styled
from enginectl.flags import add_config_flags, read_config
from enginectl.session import open_client, sampling_params
from pagoda.client import EngineClient, Logprob
from pagoda.config import ConfigError, SamplingParams
from pagoda.outputs import CompletionOutput, RequestOutput

_LOWEST_LOGPROB = -9999.0  # JSON has no -inf


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl complete`."""
    parser.add_argument("words", nargs="*", metavar="[MODEL] PROMPT", help="the prompt, or - to read it from stdin")
    parser.add_argument("--json", action="store_true", default=False, help="print the whole result as one JSON object")
    add_config_flags(parser, ["model", "sampling", "engine"])


def run(args: argparse.Namespace) -> int:
    """Generates and prints; returns the exit code."""
    words = getattr(args, "words", None) or []
    if len(words) not in (1, 2):
        raise ConfigError([f"expected [MODEL] PROMPT, got {len(words)} words; put the prompt in quotes"])
    config = read_config(args, words[0] if len(words) == 2 else None)
    prompt = _stdin_text() if words[-1] == "-" else words[-1]
    with open_client(config) as client, asyncio.Runner() as runner:
        params = sampling_params(client, config)
        token_ids = _encode(client, prompt)
        live = not args.json and params.n == 1
        start = time.monotonic()
        result = runner.run(_generate(client, prompt, token_ids, params, live))
        seconds = time.monotonic() - start
    if args.json:
        print(_json(client.model_name, result, seconds))
    else:
        _print_rest(result, seconds, live)
    errors = [choice.error or "unknown error" for choice in result.outputs if choice.finish_reason == "error"]
    return fail(f"generation failed: {errors[0]}", 1) if errors else 0


async def _generate(
    client: EngineClient, prompt: str, token_ids: list[int], params: SamplingParams, live: bool
) -> RequestOutput:
    """Runs the request to its end; with `live` its text is printed as it comes."""
    given = prompt if client.tokenizer is not None else None
    result = RequestOutput("complete", given, token_ids, [CompletionOutput(index) for index in range(params.n)])
    async with contextlib.aclosing(client.generate(token_ids, params)) as events:
        async for event in events:
            result.add(event)
            if live:
                shown = (
                    event.text if client.tokenizer is not None else "".join(f"{token} " for token in event.token_ids)
                )
                print(shown, end="", flush=True)
    return result


def _num_tokens(result: RequestOutput) -> int:
    """Output tokens of all choices."""
    return sum(len(choice.token_ids) for choice in result.outputs)


def _json(model: str, result: RequestOutput, seconds: float) -> str:
    """The whole result as one line of JSON."""
    content = dataclasses.asdict(result)
    del content["request_id"]
    content["choices"] = content.pop("outputs")
    for choice, output in zip(content["choices"], result.outputs, strict=True):
        choice["logprobs"] = None if output.logprobs is None else [_logprobs(entry) for entry in output.logprobs]
    if result.prompt_logprobs is not None:
        content["prompt_logprobs"] = [entry and _logprobs(entry) for entry in result.prompt_logprobs]
    usage = {
        "prompt_tokens": len(result.prompt_token_ids),
        "completion_tokens": _num_tokens(result),
        "cached_tokens": result.num_cached_tokens,
    }
    return json.dumps({"model": model, **content, "seconds": seconds, "usage": usage}, ensure_ascii=False)


def _print_rest(result: RequestOutput, seconds: float, live: bool) -> None:
    """Ends the streamed line, or prints the choices that were not streamed; then the speed, where a person sees it."""
    if live:
        print()
    else:
        for choice in result.outputs:
            print(f"[{choice.index}] {choice.text or ' '.join(map(str, choice.token_ids))}")
    if sys.stderr.isatty():
        count = _num_tokens(result)
        summary = f"{count} tokens, {count / max(seconds, 1e-9):.1f} tokens/s, {result.outputs[0].finish_reason}"
        print(styled(summary, "dim", sys.stderr), file=sys.stderr)


def _encode(client: EngineClient, prompt: str) -> list[int]:
    if client.tokenizer is not None:
        token_ids: list[int] = client.tokenizer.encode(prompt)
        return token_ids
    try:
        return [int(word) for word in prompt.replace(",", " ").split()]
    except ValueError:
        raise ConfigError([f"without a tokenizer the prompt must be token ids, got '{prompt[:60]}'"]) from None


def _stdin_text() -> str:
    """All of stdin as UTF-8; one newline at its end is dropped."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(
            [f"stdin must be UTF-8 text, got byte 0x{error.object[error.start]:02x} at {error.start}"]
        ) from None


def _logprobs(position: dict[int, Logprob]) -> dict[str, Any]:
    """One position's alternatives by token id, as JSON can hold them."""
    return {
        str(token): {
            "logprob": max(entry.logprob, _LOWEST_LOGPROB),
            "rank": entry.rank,
            "decoded_token": entry.decoded_token,
        }
        for token, entry in position.items()
    }
