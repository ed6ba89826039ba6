"""Makes small mistakes in the CUDA kernels, one at a time, and checks that the tests under emulation notice each.

Usage: run.py <build folder> [--jobs N] [--only WORD] [--unchanged]. The build folder holds the emulated tests; a mutant
is one source compiled again from a changed copy and linked with the objects that are there. Called by ctest; the exit
status is 1 if one survives.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mutant import Mutant
from mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[3]
RUN_TIMEOUT_S = 60
LIMIT = 200  # characters of a test's message


@dataclass(frozen=True, slots=True)
class Build:
    """What the build folder knows. Sources are named by their path below the repository."""

    folder: Path
    commands: dict[str, list[str]]
    """By source: the compiler and its arguments."""
    objects: dict[str, Path]
    """By source: the object files of cuda/ and of the emulation, which every test is linked with."""
    tests: dict[str, Path]
    """By source: the object files of tests."""

    def libraries(self) -> list[str]:
        return [str(path) for path in sorted(self.folder.glob("libpagoda_*.a"))]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one mutant."""

    caught: bool
    text: str
    """What noticed it, or why nothing did."""
    seconds: float = 0


def read_build(folder: Path) -> Build:
    """Throws OSError when the folder was not configured."""
    build = Build(folder, {}, {}, {})
    for entry in json.loads((folder / "compile_commands.json").read_text()):
        source = Path(entry["file"]).resolve()
        words = shlex.split(entry["command"])
        output = Path(entry["directory"]) / words[words.index("-o") + 1]
        if not source.is_relative_to(ROOT) or output.suffix == ".gch":  # precompiled headers
            continue
        name = str(source.relative_to(ROOT))
        if "pagoda_cuda_emulated.dir" in output.parts:
            build.objects[name] = output
        elif name.startswith("tests/cuda/") and name.endswith("_test.cc"):
            build.tests[name] = output
        else:
            continue
        build.commands[name] = words
    return build


def test_source(mutant: Mutant) -> str:
    return f"tests/cuda/{mutant.test}.cc"


def missing(build: Build, mutants: list[Mutant]) -> list[str]:
    """What the mutants need and was not built, in words."""
    if not build.objects:
        return [f"{build.folder} has no emulated kernels; configure with -DPAGODA_TESTS=ON on x86-64"]
    lines = [f"{name} was not compiled" for name, path in build.objects.items() if not path.exists()]
    for name in sorted({test_source(mutant) for mutant in mutants}):
        if name not in build.tests:
            lines.append(f"{name} is no test that the build folder knows")
        elif not build.tests[name].exists():
            lines.append(f"{name} was not compiled")
    for name in sorted({mutant.source or mutant.file for mutant in mutants} - set(build.commands)):
        lines.append(f"{name} is no source that the build folder knows")
    return lines


def mutate(mutant: Mutant, into: Path) -> None:
    """Writes the changed copy of the mutant's file below `into`. Throws ValueError if the file has not the text."""
    text = (ROOT / mutant.file).read_text()
    if text.count(mutant.before) != mutant.count:
        raise ValueError(f"{mutant.file} has {text.count(mutant.before)} times {mutant.before!r}, not {mutant.count}")
    copy = into / mutant.file
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(text.replace(mutant.before, mutant.after))


def compile_mutant(build: Build, source: str, into: Path) -> Path:
    """The object of `source`, the one that is compiled again, with the changed files below `into`."""
    words = list(build.commands[source])
    output = into / "mutant.o"
    words[words.index("-o") + 1] = str(output)
    words[words.index("-c") + 1] = str((into if (into / source).exists() else ROOT) / source)
    # First on the include path, so that a changed header is found before the real one.
    words.insert(number_of_compiler_words(words), f"-I{into}")
    words += ["-w"]
    subprocess.run(words, check=True, capture_output=True, text=True, errors="replace", cwd=build.folder)
    return output


def number_of_compiler_words(words: list[str]) -> int:
    """One, or two with a launcher such as ccache."""
    return next(i for i, word in enumerate(words) if word.startswith("-"))


def link_test(build: Build, mutant: Mutant, source: str, changed: Path, googletest: list[str]) -> Path:
    """The test with the changed object in the place of that of `source`."""
    binary = changed.with_name("test")
    objects = {name: path for name, path in build.objects.items() if name != source}
    test = test_source(mutant)
    if source != test:
        objects[test] = build.tests[test]
    words = build.commands[source]
    # The changed object comes first: of an inline function that several objects hold, the linker takes the first.
    link = [words[number_of_compiler_words(words) - 1], "-o", str(binary), str(changed), *map(str, objects.values())]
    link += ["-Wl,--start-group", *build.libraries(), "-Wl,--end-group", *googletest, "-lpthread", "-ldl"]
    subprocess.run(link, check=True, capture_output=True, text=True, errors="replace")
    return binary


def run_test(binary: Path, mutant: Mutant) -> Outcome:
    """Caught if a test fails; the first failure ends the run."""
    options = ["--gtest_brief=1", "--gtest_break_on_failure", f"--gtest_filter={mutant.tests}"]
    try:
        done = subprocess.run(
            [binary, *options], check=False, capture_output=True, text=True, errors="replace", timeout=RUN_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Outcome(True, f"did not end within {RUN_TIMEOUT_S} s")
    if "0 tests ran" in done.stdout or "Running 0 tests" in done.stdout:
        return Outcome(False, f"no test is called {mutant.tests}")
    if done.returncode == 0:
        return Outcome(False, "survived")
    lines = done.stdout.splitlines()
    for i, line in enumerate(lines):
        place, separator, _ = line.partition(": Failure")
        if separator:
            return Outcome(True, " ".join([Path(place).name, *map(str.strip, lines[i + 1 : i + 6])])[:LIMIT])
    return Outcome(True, f"exit status {done.returncode}: {done.stderr[-LIMIT:].strip()}")


def try_mutant(build: Build, mutant: Mutant, googletest: list[str], unchanged: bool) -> Outcome:
    """`unchanged`: everything but the change itself."""
    started = time.monotonic()
    source = mutant.source or mutant.file
    with tempfile.TemporaryDirectory() as name:
        into = Path(name)
        try:
            if not unchanged:
                mutate(mutant, into)
            binary = link_test(build, mutant, source, compile_mutant(build, source, into), googletest)
        except subprocess.CalledProcessError as error:
            return Outcome(False, f"does not compile or link:\n{error.stderr[-10 * LIMIT :]}")
        except ValueError as error:
            return Outcome(False, str(error))
        outcome = run_test(binary, mutant)
    return Outcome(outcome.caught, outcome.text, time.monotonic() - started)


def main() -> int:
    """0 if every mutant was caught."""
    parser = argparse.ArgumentParser(description="Checks that the emulated tests notice mistakes in the CUDA kernels.")
    parser.add_argument("build", type=Path, help="the build folder, with the emulated tests built")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at the same time (default 2)")
    parser.add_argument("--only", default="", help="mutants with this word in their name (default all)")
    parser.add_argument("--unchanged", action="store_true", help="leave the change out: every mutant must survive")
    parser.add_argument(
        "--googletest", nargs="+", default=["-lgtest_main", "-lgtest"], help="its libraries (default: installed)"
    )
    arguments = parser.parse_args()
    build = read_build(arguments.build.resolve())
    chosen = [mutant for mutant in MUTANTS if arguments.only in mutant.name]
    if lines := missing(build, chosen):
        print("\n".join(lines))
        return 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # failures end a test by a signal
    with ThreadPoolExecutor(arguments.jobs) as pool:
        attempts = pool.map(lambda mutant: try_mutant(build, mutant, arguments.googletest, arguments.unchanged), chosen)
        outcomes = dict(zip(chosen, attempts, strict=True))
    for mutant, outcome in outcomes.items():
        verdict = "caught" if outcome.caught else "NOT CAUGHT"
        print(f"{verdict}: {mutant.name} ({mutant.file}, {outcome.seconds:.1f} s): {outcome.text}")
    caught = sum(outcome.caught for outcome in outcomes.values())
    if arguments.unchanged:
        survivors = sum(outcome.text == "survived" for outcome in outcomes.values())
        print(f"{survivors} of {len(chosen)} tests pass without the change")
        return 0 if survivors == len(chosen) else 1
    print(f"{caught} of {len(chosen)} mutants were caught")
    return 0 if chosen and caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
