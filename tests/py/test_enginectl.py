"""The command line's manners: help, suggestions, exit codes, clean stdout, colours, pipes and Ctrl-C."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import yaml

from enginectl.__main__ import COMMANDS, main
from enginectl.config import render
from enginectl.console import colours, size_text, styled
from enginectl.failures import report
from pagoda.config import ConfigError, DeviceError, InvalidArgument, load_config

PACKAGES = str(Path(importlib.import_module("enginectl").__file__ or "").parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([PACKAGES, os.environ.get("PYTHONPATH", "")])}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shell(command: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs a bash line in which `enginectl` is this interpreter's."""
    line = f'enginectl() {{ "{sys.executable}" -m enginectl "$@"; }}; {command}'
    environment = {**ENVIRONMENT, **changes}
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def test_no_arguments_give_help_on_stderr_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(command in err for command in COMMANDS)


def test_the_version_is_the_installed_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.2.3")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "pagoda-engine 1.2.3\n"


def test_asking_for_help_gives_it_on_stdout_and_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert "usage: enginectl COMMAND" in out
    assert err == ""


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_describes_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: enginectl {command} ")
    assert err == ""


def test_flags_of_commands_are_made_from_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--max-num-seqs N", "--gpu-memory-utilization X", "--no-prefix-cache", "--port N", "--temperature X"):
        assert flag in out


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["sevre"], "unknown command 'sevre'; did you mean serve?"),
        (["xyzzy"], "unknown command 'xyzzy'; the commands are serve"),
        (["config", "show", "--max-num-seq", "4"], "unknown flag --max-num-seq; did you mean --max-num-seqs?"),
        (["config", "show", "--max_num_seqs=4"], "did you mean --max-num-seqs?"),
        (["config", "show", "--port"], "argument --port: expected one argument"),
        (["config", "show", "--port", "99999"], "--port: server.port must be a whole number in [0, 65535], got 99999"),
        (["config", "show", "--set", "a"], "--set a: must look like section.key=value"),
        (["config", "hide"], "invalid choice: 'hide'"),
        (["pull"], "required: NAME"),
        (["complete"], "expected [MODEL] PROMPT, got 0 words"),
        (["complete", "a", "b", "c"], "expected [MODEL] PROMPT, got 3 words"),
        (["complete", "a", "b", "--model", "c"], "the model is given twice: a and --model c"),
    ],
)
def test_a_wrong_command_line_exits_2_and_says_why(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert text in err
    assert out == ""
    assert "Traceback" not in err


def test_all_configuration_errors_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--port", "-1", "--set", "x.y=1", "--top-p", "0"]) == 2
    assert capsys.readouterr().err.count("error: ") == 3


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ConfigError(["a", "b"]), 2),
        (InvalidArgument("bad"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file", "m.gguf"), 2),
        (DeviceError("built without CUDA"), 3),
        (OSError(errno.EADDRINUSE, "port 1 is in use"), 4),
        (KeyboardInterrupt(), 130),
        (SystemExit(2), 2),
    ],
)
def test_what_a_command_raises_becomes_an_exit_code(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> int:
        raise raised

    module = types.SimpleNamespace(__doc__="x", add_arguments=lambda parser: None, run=run)
    monkeypatch.setitem(sys.modules, "enginectl.doctor", module)
    assert main(["doctor"]) == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (OSError(errno.EADDRINUSE, "port 1 is in use"), "error: port 1 is in use\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "m.gguf"), "error: m.gguf: No such file\n"),
    ],
)
def test_an_error_of_the_system_is_told_without_its_number(
    raised: OSError, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report(raised)
    assert capsys.readouterr().err == text


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: object) -> int:
        raise RuntimeError("a bug")

    module = types.SimpleNamespace(__doc__="x", add_arguments=lambda parser: None, run=run)
    monkeypatch.setitem(sys.modules, "enginectl.doctor", module)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["doctor"])


def test_help_imports_neither_the_engine_nor_the_server() -> None:
    code = (
        "import sys, enginectl.__main__ as m; m.main(['--help']);"
        "sys.exit(any(n.startswith(('pagoda', 'aiohttp', 'yaml', 'tokenizers')) for n in sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, check=False).returncode == 0
    )


def test_a_closed_pipe_is_silent() -> None:
    done = shell("enginectl config show | true; exit ${PIPESTATUS[0]}")
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0: everything was written before the reader left


@pytest.mark.parametrize("command", ["config show", "--help"])
def test_writing_to_a_pipe_nobody_reads_exits_141_without_a_word(command: str) -> None:
    done = shell(f"exec 3> >(exec true); sleep 0.5; enginectl {command} >&3")
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_exits_130_without_a_word() -> None:
    code = (
        "import signal, sys, time, types\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background run hands on an ignored SIGINT
        "def run(args):\n"
        "    print('running', flush=True); time.sleep(30)\n"
        "sys.modules['enginectl.doctor'] = types.SimpleNamespace(__doc__='', add_arguments=lambda p: None, run=run)\n"
        "from enginectl.__main__ import main; sys.exit(main(['doctor']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, "")


def test_config_show_prints_what_config_reads(tmp_path: Path) -> None:
    sets = ["engine.max_num_seqs=4", "sampling.stop=[a, 'b: c']", "sampling.logit_bias={5: 1.5}", "server.port=0"]
    first = load_config(sets=sets)
    path = tmp_path / "shown.yaml"
    path.write_text(render(first, origin=True))
    again = load_config(path)
    pairs = [((a.section, a.row.name, a.value), (b.section, b.row.name, b.value)) for a, b in
             zip(first.settings(), again.settings(), strict=True)]  # fmt: skip
    assert all(a == b for a, b in pairs)


def test_config_show_tells_origins_and_hides_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("server:\n  api_keys: [canary]\n  port: 9000\n")
    path.chmod(0o644)
    assert (
        main(["config", "show", "--origin", "--config", str(path), "--max-num-seqs", "3", "--set", "engine.isa=auto"])
        == 0
    )
    out, err = capsys.readouterr()
    assert "canary" not in out + err
    assert "chmod 600" in err
    assert f"port: 9000  # {path}:3" in out
    assert "max_num_seqs: 3  # --max-num-seqs" in out
    assert 'isa: "auto"  # --set' in out
    assert "block_size: 16  # default" in out
    assert yaml.safe_load(out)["engine"]["max_num_seqs"] == 3


def test_colours_need_a_terminal_and_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert colours(Terminal())
    assert styled("x", "red", Terminal()) == "\033[31mx\033[0m"
    assert styled("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("x", "red", Terminal()) == "x"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (96_600_000, "92.1 MiB"), (4 << 30, "4.0 GiB")],
)
def test_sizes_are_for_people(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text


def test_json_of_a_plan_is_alone_on_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import enginectl.plan

    plan = {
        "weights_bytes": 100 << 20,
        "workspace_bytes": 1 << 20,
        "kv_bytes_per_block": 1 << 20,
        "kv_cache_bytes": 64 << 20,
        "budget_bytes": 1 << 29,
        "total_bytes": 1 << 31,
        "num_blocks": 64,
        "num_swap_blocks": 0,
        "block_size": 16,
        "max_model_len": 512,
        "max_concurrency": 2.0,
        "available_bytes": 1 << 30,
    }
    files = types.SimpleNamespace(path=Path("m.gguf"), name="m")
    monkeypatch.setattr(enginectl.plan, "resolve", lambda name: files)
    monkeypatch.setattr(enginectl.plan, "plan_memory", lambda path, options: plan)
    assert main(["plan", "m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plan
    assert main(["plan", "m"]) == 0
    out = capsys.readouterr().out
    assert "64.0 MiB: 64 blocks x 16 tokens = 1,024 tokens" in out
    assert "Maximum concurrency for 512 tokens per request: 2.00" in out


def test_the_command_line_starts_fast() -> None:
    start = time.monotonic()
    assert shell("enginectl --help").returncode == 0
    assert time.monotonic() - start < 5.0
