"""Loading a configuration: sources, precedence, origins, and errors that name the place and come all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagoda.config import ConfigError, config_schema, load_config


def errors_of(text: str, tmp_path: Path) -> list[str]:
    """The errors of a file with this text, without the directory."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return [error.replace(f"{tmp_path}/", "") for error in caught.value.errors]


def test_nothing_given_is_the_default() -> None:
    config = load_config()
    assert config.model.name == "smollm2-135m"
    assert config.engine.max_num_seqs == 256
    assert config.server.host == "127.0.0.1"
    assert dict(config.sampling) == {}
    assert dict(config.origin) == {}


def test_a_flag_wins_over_set_over_file_over_default(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("engine:\n  max_num_seqs: 1\n  block_size: 8\n  max_num_queued_seqs: 7\n")
    config = load_config(path, ["engine.max_num_seqs=2", "engine.block_size=32"], {("engine", "max_num_seqs"): "3"})
    assert (config.engine.max_num_seqs, config.engine.block_size, config.engine.max_num_queued_seqs) == (3, 32, 7)
    assert config.origin == {
        "engine.max_num_seqs": "--max-num-seqs",
        "engine.block_size": "--set",
        "engine.max_num_queued_seqs": f"{path}:4",
    }


def test_speculation_is_a_map_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("engine:\n  speculative: {method: ngram, num_speculative_tokens: 3}\n")
    default = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
    assert load_config().engine.speculative is None
    assert load_config(path).engine.speculative == default | {"num_speculative_tokens": 3}
    flag = {("engine", "speculative"): "{prompt_lookup_min: 3}"}
    assert load_config(path, flags=flag).engine.speculative == default | {"prompt_lookup_min": 3}
    assert load_config(path, ["engine.speculative=null"]).engine.speculative is None
    assert load_config(sets=['engine.speculative_config={"method": "ngram"}']).engine.speculative == default


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{method: eagle}", 'engine.speculative.method must be ngram, got "eagle"'),
        ("{prompt_lookup_max: 1}", "engine.speculative.prompt_lookup_min must be <= prompt_lookup_max = 1, got 2"),
        (
            "{num_speculative_tokens: 0}",
            "engine.speculative has a wrong value: num_speculative_tokens must be a whole number or a count such as "
            "16K in [1, 64], got 0",
        ),
    ],
)
def test_a_fault_of_speculation_names_the_line(text: str, error: str, tmp_path: Path) -> None:
    assert errors_of(f"engine:\n  speculative: {text}\n", tmp_path) == [f"config.yaml:2: {error}"]


def test_environment_variables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGODA_PORT", "1")
    monkeypatch.setenv("PAGODA_SERVER_PORT", "1")
    assert load_config().server.port == 8000


def test_values_of_a_python_caller_are_checked_like_a_file() -> None:
    assert load_config(values={"engine": {"max_num_seqs": 4}}).engine.max_num_seqs == 4
    with pytest.raises(ConfigError) as caught:
        load_config(values={"engine": {"max_num_seq": 4, "block_size": "x"}, "engin": {}})
    assert len(caught.value.errors) == 3


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "engine:\n  max_num_seq: 4\n",
            "config.yaml:2: unknown key engine.max_num_seq; did you mean engine.max_num_seqs?",
        ),
        (
            "engine:\n  max-num-seqs: 4\n",
            "config.yaml:2: unknown key engine.max-num-seqs; did you mean engine.max_num_seqs?",
        ),
        (
            "engine:\n  temperature: 1\n",
            "config.yaml:2: unknown key engine.temperature; did you mean sampling.temperature?",
        ),
        ("engin: {}\n", "config.yaml:1: unknown section engin; did you mean engine?"),
        ("max_num_seqs: 4\n", "config.yaml:1: unknown section max_num_seqs; did you mean engine.max_num_seqs?"),
        ("engine: 5\n", "config.yaml:1: section engine must be a map of keys and values"),
        ("- 5\n", "config.yaml:1: must be a map with the sections model, engine, server, sampling"),
        (
            "server:\n  port: 99999\n",
            "config.yaml:2: server.port must be a whole number in [0, 65535], got 99999",
        ),
        (
            "sampling:\n  temperature: hot\n",
            "config.yaml:2: sampling.temperature must be a number in [0, 2], got 'hot'",
        ),
        ("engine:\n  prefix_cache: on\n", "config.yaml:2: engine.prefix_cache must be true or false, got 'on'"),
        (
            "engine:\n  memory_utilization: 0.5\n  gpu_memory_utilization: 0.5\n",
            "config.yaml:3: engine.gpu_memory_utilization and engine.memory_utilization are the same setting; give one",
        ),
        ("model:\n  chat_template: /no/such\n", "config.yaml:2: model.chat_template must be a file, got '/no/such'"),
    ],
)
def test_an_error_names_place_value_and_what_is_allowed(text: str, error: str, tmp_path: Path) -> None:
    assert errors_of(text, tmp_path) == [error]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("engine:\n  max_num_queued_seqs: 3\n  block_size: 3\n", 3, ("block_size", "power of two")),
        ("engine:\n  isa: sse9\n", 2, ("isa", "avx2", "sse9")),
        ("sampling:\n  n: 1\n  stop: ['']\n", 3, ("stop",)),
    ],
)
def test_what_only_the_engine_can_check_is_located_too(
    text: str, line: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    (error,) = errors_of(text, tmp_path)
    assert error.startswith(f"config.yaml:{line}: ")
    assert all(word in error for word in words)


def test_two_settings_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    (error,) = errors_of("engine:\n  kv_cache_memory: 1GiB\n  num_kv_blocks: 64\n", tmp_path)
    assert "kv_cache_memory" in error
    assert "num_kv_blocks" in error


def test_all_errors_of_all_sources_come_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("engine:\n  max_num_seq: 4\n  block_size: 0\n  isa: sse9\nengine:\n  x: 1\nserver:\n  port: -1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["a.b=1", "engine.nothing", "engine.max_num_queued_seqs=x"], {("sampling", "top_p"): "0"})
    text = str(caught.value)
    expected = ["max_num_seq;", "block_size", "isa", "given twice", "server.port", "--set a.b", "--set engine.nothing"]
    for part in [*expected, "--set engine.max_num_queued_seqs", "--top-p"]:
        assert part in text
    assert len(caught.value.errors) == 9


@pytest.mark.parametrize(
    ("assignment", "part"),
    [
        ("engine", "must look like section.key=value"),
        ("engine.max_num_seqs", "must look like section.key=value"),
        (".x=1", "must look like section.key=value"),
        ("=", "must look like section.key=value"),
        ("engine.max_num_seqs=", "must be a whole number in [1, 65536], got ''"),
        ("engine.max_num_seqs=[", "not valid YAML"),
        ("engine.a.b=1", "unknown key engine.a.b"),
    ],
)
def test_a_wrong_assignment_is_refused(assignment: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(sets=[assignment])
    assert len(caught.value.errors) == 1
    assert part in caught.value.errors[0]


def test_set_values_are_yaml() -> None:
    config = load_config(sets=["sampling.stop=[a, b]", "engine.kv_cache_memory=1GiB", "sampling.temperature=1e-1"])
    assert config.sampling["stop"] == ["a", "b"]
    assert config.engine.kv_cache_memory == 1 << 30
    assert config.sampling["temperature"] == 0.1


def test_the_familiar_name_of_the_memory_share_is_an_alias() -> None:
    assert load_config(sets=["engine.gpu_memory_utilization=0.25"]).engine.memory_utilization == 0.25


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot read the configuration: No such file"):
        load_config(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="cannot read the configuration: Is a directory"):
        load_config(tmp_path)


@pytest.mark.parametrize("text", ["", "engine:\nserver: {}\n"])
def test_empty_files_and_sections_are_allowed(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert dict(load_config(path).origin) == {}


def test_a_key_in_a_file_that_others_can_read_gives_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("server:\n  api_keys: [canary]\n")
    path.chmod(0o644)
    (warning,) = load_config(path).warnings
    assert "chmod 600" in warning
    assert "canary" not in warning
    path.chmod(0o600)
    assert load_config(path).warnings == ()


def test_an_address_that_others_reach_needs_a_key() -> None:
    with pytest.raises(ConfigError, match=r"server\.host '0\.0\.0\.0' can be reached"):
        load_config(sets=["server.host=0.0.0.0"])
    assert load_config(sets=["server.host=0.0.0.0", "server.api_keys=[k]"]).server.host == "0.0.0.0"


def test_every_row_has_its_own_flag() -> None:
    flags = config_schema().flags
    assert len(set(flags.values())) == len(flags) == sum(len(rows) for rows in config_schema().rows.values())
    assert flags["model", "name"] == "--model"
    assert flags["engine", "max_num_seqs"] == "--max-num-seqs"
    assert flags["sampling", "seed"] == "--seed"


def test_a_config_cannot_be_changed() -> None:
    config = load_config()
    with pytest.raises(AttributeError):
        config.sampling = {}  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.sampling["n"] = 2  # type: ignore[index]
