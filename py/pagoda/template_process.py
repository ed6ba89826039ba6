"""The parent's side of template_worker.py: sends it templates, ends it when it overruns its budget.

Owned by ChatTemplate. Costs about 25 MB and 0.1 s once, and a fraction of a millisecond per chat.
"""

from __future__ import annotations

from typing import Any

from pagoda import template_worker
from pagoda.worker_process import WorkerFailure as TemplateFailure
from pagoda.worker_process import WorkerProcess

__all__ = ["TemplateFailure", "TemplateProcess"]


class TemplateProcess:
    """Renders in one worker process. Thread-safe."""

    def __init__(self, time_budget_s: float, memory_bytes: int, max_output_chars: int) -> None:
        self._worker = WorkerProcess(
            template_worker.__file__,
            {"memory_bytes": memory_bytes, "max_output_chars": max_output_chars},
            time_budget_s,
            late=f"the chat template ran longer than {time_budget_s:g} s",
            dead="the process that renders chat templates ended unexpectedly",
        )

    def render(self, source: str, variables: dict[str, Any]) -> str:
        """The rendered text. Raises TemplateFailure for an error in the template or an exceeded budget."""
        return str(self._worker.ask({"source": source, "variables": variables})["text"])

    def literals(self, source: str) -> list[str]:
        """Every string that the template itself holds. Raises TemplateFailure as `render` does."""
        return list(self._worker.ask({"source": source})["literals"])

    def close(self) -> None:
        """Ends the worker. A later `render` starts a new one."""
        self._worker.close()
