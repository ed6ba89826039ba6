"""`python -m enginectl` in its own process, on real models: what comes out, on which stream, with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.tiny_models import TinyModel

from pagoda import LLM, SamplingParams

SMALL = ["--num-kv-blocks", "32", "--max-model-len", "128"]


def enginectl(*words: str, stdin: str | None = None, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs one command; fails with its output when the exit code is another."""
    done = subprocess.run(
        [sys.executable, "-m", "enginectl", *words],
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_complete_prints_the_text_that_generate_gives(talking: Path) -> None:
    done = enginectl(
        "complete", str(talking), "The quick", "--temperature", "0", "--max-tokens", "8", "--ignore-eos", *SMALL
    )
    with LLM(str(talking), num_kv_blocks=32) as llm:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        text = llm.generate("The quick", params, use_tqdm=False)[0].outputs[0].text
    assert done.stdout == text + "\n"
    assert done.stderr == ""


def test_complete_json_is_one_object_with_everything_asked_for(talking: Path) -> None:
    flags = [
        "--n",
        "2",
        "--seed",
        "5",
        "--max-tokens",
        "4",
        "--ignore-eos",
        "--logprobs",
        "2",
        "--prompt-logprobs",
        "1",
    ]
    done = enginectl("complete", str(talking), "-", "--json", *flags, *SMALL, stdin="The quick\n")
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["prompt"] == "The quick"
    assert result["usage"]["completion_tokens"] == 8
    assert result["prompt_logprobs"][0] is None
    assert len(result["prompt_logprobs"]) == len(result["prompt_token_ids"])
    assert [choice["index"] for choice in result["choices"]] == [0, 1]
    assert result["choices"][0]["token_ids"] != result["choices"][1]["token_ids"]
    for choice in result["choices"]:
        assert choice["seed"] == 5
        assert choice["finish_reason"] == "length"
        assert len(choice["logprobs"]) == 4
    again = enginectl("complete", str(talking), "The quick", "--json", *flags, *SMALL)
    assert json.loads(again.stdout)["choices"] == result["choices"]


def test_complete_takes_token_ids_without_a_tokenizer(tiny: Callable[[str], TinyModel]) -> None:
    model = tiny("llama")
    flags = ["--skip-tokenizer", "--temperature", "0", "--max-tokens", "5", "--ignore-eos", "--kv-cache-dtype", "f32"]
    done = enginectl("complete", str(model.path), "7, 8 9", *flags, *SMALL)
    assert [int(word) for word in done.stdout.split()] == model.greedy([7, 8, 9], 5)


def test_complete_answers_with_the_embedded_model(smollm2: Path) -> None:
    done = enginectl(
        "complete", str(smollm2), "The capital of France is", "--temperature", "0", "--max-tokens", "6", *SMALL
    )
    assert "Paris" in done.stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["complete"], "got 0 words"),
        (["complete", "./no-such-model", "x"], "no-such-model"),
        (["complete", "MODEL", "x", "--top-p", "1.5"], "top_p must be a number in (0, 1], got 1.5"),
        (["complete", "MODEL", "x", "--max-model-len", "100000"], "max_model_len"),
        (["complete", "MODEL", "x", "--num-kv-blocks", "4", "--kv-cache-memory", "1000"], "num_kv_blocks"),
        (["complete", "MODEL", "x" * 2000, *SMALL], "maximum context length is 128"),
        (["complete", "MODEL", "x", "--logit-bias", "99999:1", *SMALL], "99999"),
        (["complete", "MODEL", "x", "--skip-tokenizer", *SMALL], "must be token ids, got 'x'"),
        (["plan", "./no-such-model"], "no-such-model"),
        (["plan", "MODEL", "--num-kv-blocks", "1000000000000"], "would fit"),
        (["config", "show", "--set", "engine.blok_size=16"], "did you mean"),
        (["compleet"], "did you mean complete"),
        (["pull", "no-such-alias"], "no-such-alias"),
    ],
)
def test_a_mistake_ends_with_exit_code_2_and_a_text_on_stderr(words: list[str], part: str, talking: Path) -> None:
    done = enginectl(*[str(talking) if word == "MODEL" else word for word in words], expect=2)
    assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_unsupported_architecture_ends_with_exit_code_2(tmp_path: Path, tiny: Callable[[str], TinyModel]) -> None:
    for file in tiny("llama").path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BloomForCausalLM"]}))
    done = enginectl("complete", str(tmp_path), "1", "--skip-tokenizer", expect=2)
    assert "'BloomForCausalLM' is not supported; supported are LlamaForCausalLM" in done.stderr


def test_plan_is_what_loading_takes(talking: Path) -> None:
    plan = json.loads(enginectl("plan", str(talking), "--json", *SMALL).stdout)
    with LLM(str(talking), num_kv_blocks=32, max_model_len=128) as llm:
        loaded = llm.describe()
    moving = {"available_bytes", "budget_bytes"}  # other processes come and go
    assert {name: loaded[name] for name in plan if name not in moving} == {
        name: value for name, value in plan.items() if name not in moving
    }
    assert plan["num_blocks"] == 32
    assert plan["kv_cache_bytes"] == 32 * plan["kv_bytes_per_block"]


def test_plan_prints_a_table_with_the_concurrency(talking: Path) -> None:
    out = enginectl("plan", str(talking), *SMALL).stdout
    assert "32 blocks x 16 tokens = 512 tokens" in out
    assert "Maximum concurrency for 128 tokens per request: 4.00" in out


def test_doctor_finds_nothing_wrong_and_makes_a_token(smollm2: Path) -> None:
    assert smollm2.is_file()
    findings = json.loads(enginectl("doctor", "--json").stdout)["findings"]
    assert [finding for finding in findings if finding["status"] == "failed"] == []
    assert len({finding["check"] for finding in findings}) >= 5


def test_config_show_merges_file_sets_and_flags_and_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "pagoda.yaml"
    file.write_text("engine:\n  block_size: 32\n  max_num_seqs: 7\nsampling:\n  temperature: 0.5\n")
    flags = ["--config", str(file), "--set", "engine.max_num_seqs=8", "--num-threads", "1"]
    shown = enginectl("config", "show", *flags, "--origin").stdout
    assert f"block_size: 32  # {file}:2" in shown
    assert "max_num_seqs: 8  # --set" in shown
    assert "num_threads: 1  # --num-threads" in shown
    assert "temperature: 0.5" in shown
    copy = tmp_path / "copy.yaml"
    copy.write_text(enginectl("config", "show", *flags).stdout)
    assert enginectl("config", "show", "--config", str(copy)).stdout == copy.read_text()


def test_help_lists_the_commands_and_every_command_has_help() -> None:
    overview = enginectl("--help").stdout
    for command in ("serve", "chat", "complete", "pull", "plan", "doctor", "config"):
        assert command in overview
    assert "--max-num-batched-tokens" in enginectl("plan", "--help").stdout


def test_a_batch_is_answered_as_the_server_would(talking: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    body = {"prompt": "The quick", "temperature": 0, "max_tokens": 8, "ignore_eos": True}
    entries = [{"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body} for i in range(5)]
    source.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    done = enginectl("run-batch", str(talking), str(source), str(target), *SMALL)
    assert "5 answers" in done.stderr
    assert done.stdout == ""
    answers = [json.loads(line)["response"]["body"]["choices"][0]["text"] for line in target.read_text().splitlines()]
    with LLM(str(talking), num_kv_blocks=32) as llm:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        assert answers == [llm.generate("The quick", params, use_tqdm=False)[0].outputs[0].text] * 5


def test_a_prompt_is_traced_offline(talking: Path, tmp_path: Path) -> None:
    out = tmp_path / "trace.json"
    enginectl("trace", str(talking), "The quick", "--max-tokens", "4", "--ignore-eos", "--out", str(out), *SMALL)
    events = json.loads(out.read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert [event["name"] for event in spans if event["pid"] == 2] == ["queued", "prefill", "decode"]
    assert spans[-1]["args"] == {"reason": "length", "tokens": 4}
    assert sum(event["name"] == "step" for event in spans) == 4
    assert all(event["dur"] >= 0 for event in spans)
