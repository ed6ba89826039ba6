"""Models on the hub: what an id names, and how its files come here. Called by models.py.

Owns the list of files that are fetched: configuration, tokenizer, templates and safetensors, or one GGUF file; never
code, never pickles. The files lie in the hub library's own cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HubId", "ModelError", "fetch"]

_ID = re.compile(
    r"(?P<name>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?(?::(?P<file>[\w./-]+\.gguf))?"
)
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")
_FILES = [
    "*.json",
    "*.safetensors",
    "*.jinja",
    "*.tiktoken",
    "tokenizer.model",
    "tiktoken.model",
    "additional_chat_templates/*",
]


class ModelError(ValueError):
    """A model cannot be found, fetched or used. The text names the file, what was found and what to do."""


@dataclass(frozen=True, slots=True)
class HubId:
    """`org/name`, with `@revision` (a branch, tag or commit) and `:file.gguf` (a path in the repository) if given."""

    name: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """None for a text that is no hub id."""
        found = _ID.fullmatch(text)
        if found is None or ".." in text:
            return None
        return cls(found["name"], found["revision"], found["file"])

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.name}{revision}" + (f":{self.file}" if self.file else "")


def fetch(hub_id: HubId) -> Path:
    """The directory with the model's files, or the GGUF file that was named; of a split one all its files are fetched.

    Raises ModelError without the hub library, and for anything that keeps the files from coming.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ModelError(
            f"'{hub_id}' is not a local path; to fetch it from the hub install the `hub` extra: "
            "pip install 'pagoda-engine[hub]'"
        ) from None
    patterns = _FILES if hub_id.file is None else [_SHARD.sub(r"\1-*-of-\2.gguf", hub_id.file)]
    try:
        directory = Path(snapshot_download(hub_id.name, revision=hub_id.revision, allow_patterns=patterns))
    except Exception as error:  # the library raises many kinds: network, authentication, absent repository
        reason = " ".join(str(error).split())  # the library's own are of several lines
        raise ModelError(
            f"'{hub_id}' is no path on this machine, and the hub does not give it: {type(error).__name__}: {reason}"
        ) from error
    if hub_id.file is None:
        return directory
    file = directory / hub_id.file
    if not file.is_file():
        raise ModelError(f"'{hub_id}': the repository {hub_id.name} has no file {hub_id.file}")
    return file
