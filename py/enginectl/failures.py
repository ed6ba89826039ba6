"""Turns an expected exception of a command into a text on stderr and an exit code. Anything else is a bug and keeps
its traceback.
"""

from __future__ import annotations

import errno

from enginectl.console import fail
from pagoda.config import ConfigError, DeviceError, InternalError, Overloaded

USAGE = 2
DEVICE = 3
PORT_IN_USE = 4


def report(error: Exception) -> int:
    """Prints `error` and returns the exit code. Raises it again when it is none that a user can do something about."""
    if isinstance(error, ConfigError):
        return fail("\n".join(error.errors), USAGE)
    if isinstance(error, DeviceError):
        return fail(str(error), DEVICE)
    if isinstance(error, Overloaded):
        return fail(str(error), USAGE)
    if isinstance(error, InternalError):
        raise error
    if isinstance(error, OSError):
        return fail(_os_text(error), PORT_IN_USE if error.errno == errno.EADDRINUSE else USAGE)
    if isinstance(error, ValueError):
        return fail(str(error), USAGE)
    raise error


def _os_text(error: OSError) -> str:
    """The system's words with the file they are about, without the error number."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
