"""GET /v1/requests/{id}/timeline: what happened to a request and when; GET /admin/trace: all of them, for Perfetto.

Called by the router.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from pagoda.chrome_trace import chrome_trace
from pagoda.server.errors import ApiError, show
from pagoda.server.state import STATE


async def get_timeline(request: web.Request) -> web.Response:
    """Handles GET /v1/requests/{id}/timeline; the id is that of an answer's body. 404 for what is not kept any more."""
    state, request_id = request.app[STATE], request.match_info["id"]
    timelines = state.client.timelines(request_id)
    if not timelines:
        text = f"There is no timeline of {show(request_id)}; only those of the latest requests are kept."
        raise ApiError(404, text, code="request_not_found")
    body = {"id": request_id, "object": "request.timeline", "choices": [_choice(entry) for entry in timelines]}
    return web.json_response(body)


async def get_trace(request: web.Request) -> web.Response:
    """Handles GET /admin/trace: the latest requests and steps in the trace format of Chrome and Perfetto."""
    state = request.app[STATE]
    trace = await state.run_in_worker(
        lambda: chrome_trace(state.client.timelines(), state.client.steps()),
    )
    return web.json_response(trace)


def _choice(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One choice; its prompt is what stands between the id's last `-` and the engine's own number."""
    head, _, _ = entry["request_id"].rpartition("#")
    prompt = head.rpartition("-")[2]
    events = entry["events"]
    return {
        "prompt": int(prompt) if prompt.isdigit() else 0,
        "index": entry["choice"],
        "events": [{**event, "offset_s": round(event["time"] - events[0]["time"], 6)} for event in events],
        "num_dropped": entry["num_dropped"],
    }
