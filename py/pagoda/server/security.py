"""Who may call: API keys, the Host header, cross-origin rules, and the security headers of every answer.

Pure decisions over settings and request headers; edge.py applies them.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence

from multidict import CIMultiDictProxy

from pagoda.server.errors import ApiError
from pagoda.server.settings import ServerSettings

#: The only routes that answer without a key.
PUBLIC_PATHS = frozenset({"/health/live"})

HEADERS: Mapping[str, str] = {
    "Server": "pagoda",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


class KeyCheck:
    """Compares presented keys with the configured ones, in time that does not depend on their contents."""

    def __init__(self, keys: Sequence[str], admin_keys: Sequence[str] = ()) -> None:
        """`keys` are for the scope inference, `admin_keys` for the scope admin, which includes it."""
        self._digests = [_digest(key) for key in keys]
        self._admin_digests = [_digest(key) for key in admin_keys]

    @property
    def required(self) -> bool:
        """Whether inference takes a key."""
        return bool(self._digests)

    def accepts(self, headers: CIMultiDictProxy[str]) -> bool:
        """True when `Authorization: Bearer KEY` or `x-api-key: KEY` carries a key of either scope."""
        presented = _digest(_presented(headers))
        return _is_any(presented, [*self._digests, *self._admin_digests])

    def caller(self, headers: CIMultiDictProxy[str]) -> str:
        """A name for the key that a request presents; "" when none is required. Tells nothing of the key."""
        return f"key-{_digest(_presented(headers)).hex()[:16]}" if self.required else ""

    def check(self, headers: CIMultiDictProxy[str]) -> None:
        """Raises 401 without an acceptable key, when one is required."""
        if self.required and not self.accepts(headers):
            raise _unauthorized()

    def is_admin(self, headers: CIMultiDictProxy[str]) -> bool:
        """Whether a request presents a key of the scope admin."""
        return _is_any(_digest(_presented(headers)), self._admin_digests)

    def check_admin(self, headers: CIMultiDictProxy[str]) -> None:
        """Raises 401 without an acceptable key, 403 for one of inference alone, and when no admin key is configured."""
        if self.is_admin(headers):
            return
        self.check(headers)
        if not self._admin_digests:
            text = "The administration is off; set admin_api_keys or admin_api_key_file to use it."
            raise ApiError(403, text, code="admin_disabled")
        if not self.accepts(headers):
            raise _unauthorized()
        raise ApiError(403, "This API key does not open the administration.", code="insufficient_scope")


def _unauthorized() -> ApiError:
    return ApiError(
        401,
        "A valid API key is required: send `Authorization: Bearer KEY`.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": 'Bearer realm="pagoda"'},
    )


def _is_any(presented: bytes, digests: Sequence[bytes]) -> bool:
    """Whether it is one of them; every one is compared."""
    matches = [hmac.compare_digest(presented, digest) for digest in digests]
    return any(matches)


def _presented(headers: CIMultiDictProxy[str]) -> str:
    scheme, _, value = headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key", "").strip()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()


def check_host(headers: CIMultiDictProxy[str], settings: ServerSettings) -> None:
    """Raises 403 for a Host header that a rebound DNS name would carry; only called when no key is required.

    Accepted are IP addresses, `localhost`, the configured host and `allowed_hosts`: a web page cannot point those
    elsewhere.
    """
    hosts = headers.getall("Host", [])
    if len(hosts) > 1:
        raise ApiError(400, "The request has more than one Host header.", code="invalid_host", close=True)
    if not hosts or "*" in settings.allowed_hosts:
        return
    name = _host_name(hosts[0])
    allowed = {"localhost", settings.host.lower(), *(host.lower() for host in settings.allowed_hosts)}
    if name not in allowed and not _is_address(name):
        text = "This Host is not allowed; add it to allowed_hosts or set an API key."
        raise ApiError(403, text, code="host_not_allowed")


def _host_name(host: str) -> str:
    """The name without port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def allowed_origin(origin: str | None, settings: ServerSettings) -> str | None:
    """The value of Access-Control-Allow-Origin for a request from `origin`; None when it is not allowed."""
    if origin is None or origin == "null":
        return None
    if origin in settings.cors_origins:
        return origin
    return "*" if "*" in settings.cors_origins else None


def preflight_headers(origin: str | None, settings: ServerSettings) -> dict[str, str]:
    """Headers of the answer to a CORS preflight. Raises 403 for an origin that is not allowed."""
    allowed = allowed_origin(origin, settings)
    if allowed is None:
        raise ApiError(403, "This origin is not allowed.", code="origin_not_allowed")
    return {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": "authorization, content-type, x-api-key, x-request-id",
        "Access-Control-Max-Age": "600",
    }
