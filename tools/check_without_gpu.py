"""A build with CUDA kernels on a machine without a GPU: `python tools/check_without_gpu.py BUILD_FOLDER`.

The extension must import, `device: auto` must serve on the CPU, `device: cuda` must end with status 3 and a reason, and
`enginectl doctor` must say how things stand. On a machine with a driver there is nothing to check. Called by
`make build-cuda`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m"


def run(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`enginectl words...` with that package."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-m", "enginectl", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
        cwd=site,
    )


def faults(site: Path) -> list[str]:
    """What is not as it should be."""
    found = []
    doctor = run(site, "doctor", "--json")
    texts = [entry["text"] for entry in json.loads(doctor.stdout)["findings"] if entry["check"] == "cuda"]
    if not any(text.startswith("built, but it cannot be used here: ") for text in texts):
        found.append(f"doctor says {texts or doctor.stderr}")
    answer = run(site, "complete", MODEL, "The capital of France is", "--max-tokens", "3", "--temperature", "0")
    if answer.returncode != 0 or "Paris" not in answer.stdout:
        found.append(f"the CPU does not serve: status {answer.returncode}, {answer.stdout}{answer.stderr}")
    refused = run(site, "complete", MODEL, "x", "--device", "cuda")
    if refused.returncode != 3 or "use device: cpu" not in refused.stderr:
        found.append(f"device: cuda gives status {refused.returncode}, {refused.stdout}{refused.stderr}")
    return found


def main() -> int:
    """0 if everything is as it should be, or there is a driver."""
    if Path("/proc/driver/nvidia/version").exists():
        print("a driver is loaded: what happens without one is not checked")
        return 0
    with tempfile.TemporaryDirectory() as name:
        site = Path(name)
        subprocess.run([ROOT / "tools/link_package.sh", sys.argv[1], site], check=True, stdout=subprocess.DEVNULL)
        found = faults(site)
    print("\n".join(found) or "without a GPU the build with CUDA kernels serves on the CPU and says why")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
