"""Chat templates of many model families, and thirty conversations that each of them is tried with.

The templates (data/chat_templates) are written for these tests and produce each family's prompt format. A conversation
is a row of CONVERSATIONS: messages, and what is passed beside them. Text is nasty on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Message = dict[str, Any]

FAMILIES = {
    file.stem: file.read_text(encoding="utf-8")
    for file in sorted((Path(__file__).parent / "data" / "chat_templates").glob("*.jinja"))
}

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'The weather in a <place>, "now" & later',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Größe der Stadt"},
                    "unit": {"type": "string", "enum": ["°C", "°F"], "default": "°C", "description": "unit"},
                    "days": {"type": "array", "items": {"type": "integer"}, "description": "which days"},
                    "where": {"type": ["string", "null"], "nullable": True, "description": "a 'spot'"},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "now",
            "description": "The time",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]
DOCUMENTS = [
    {"doc_id": 1, "title": "Owls", "text": "Owls fly <silently>."},
    {"doc_id": 2, "title": "Größen", "text": "Text\nin lines", "source": "日本"},
]
NASTY = "  <b>ä</b> \"quoted\" 'single' {{ 7 * 7 }} {% raw %} \\n 日本 👩‍👩‍👧\t&amp; \u2028 end  "


def system(text: Any) -> Message:
    return {"role": "system", "content": text}


def user(text: Any) -> Message:
    return {"role": "user", "content": text}


def assistant(text: Any, **fields: Any) -> Message:
    return {"role": "assistant", "content": text, **fields}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def call(name: str, arguments: dict[str, Any], call_id: str = "abcDEF123") -> Message:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(text: Any, name: str = "get_weather", call_id: str = "abcDEF123") -> Message:
    return {"role": "tool", "name": name, "tool_call_id": call_id, "content": text}


@dataclass(frozen=True)
class Conversation:
    """One row; `options` are keyword arguments of the rendering."""

    name: str
    messages: list[Message]
    options: dict[str, Any] = field(default_factory=dict)
    prompt: bool = True


WEATHER = call("get_weather", {"city": "Köln <Süd>", "days": [1, 2], "deep": {"a": [True, None, 1.5]}})
HI = user("hi")
ASKED = [user("Weather?"), assistant("", tool_calls=[WEATHER])]
CHAT = [system("Be brief."), user("the quick fox"), assistant(" jumps  "), user("over\n\n")]
THOUGHT = assistant("<think>\nhm, <b>\n</think>\n\nyes")
GO_ON: dict[str, Any] = {"continue_final_message": True}

CONVERSATIONS = [
    Conversation("one user message", [HI]),
    Conversation("no generation prompt", [HI], prompt=False),
    Conversation("system prompt", [system("Be brief.  "), HI]),
    Conversation("system prompt alone", [system("Be brief.")]),
    Conversation("empty contents", [system(""), user("")]),
    Conversation("several turns", CHAT),
    Conversation("several turns that end with the assistant", CHAT[:3], prompt=False),
    Conversation("nasty text", [system(NASTY), user(NASTY), assistant(NASTY), user(NASTY)]),
    Conversation("two user messages in a row", [HI, user("there")]),
    Conversation("assistant first", [assistant("Hello"), HI]),
    Conversation("system in the middle", [HI, assistant("yes"), system("Now rhyme."), user("go")]),
    Conversation("developer", [{"role": "developer", "content": "Be kind."}, HI]),
    Conversation("tools offered", [system("Be brief."), user("Weather?")], {"tools": TOOLS}),
    Conversation("tools offered without a system prompt", [user("Weather?")], {"tools": TOOLS[1:]}),
    Conversation("tool called", [*ASKED], {"tools": TOOLS}, prompt=False),
    Conversation("tool answered", [*ASKED, result('{"t": 21, "sky": "<blue>"}')], {"tools": TOOLS}),
    Conversation(
        "tool answered and told",
        [*ASKED, result("21 °C"), assistant("It is 21 °C."), user("Thanks"), assistant("Welcome"), user("Bye")],
        {"tools": TOOLS},
    ),
    Conversation(
        "two calls with a text",
        [
            user("Weather and time?"),
            assistant("Let me see.", tool_calls=[WEATHER, call("now", {}, "xyz456789")]),
            result("21"),
            result("12:00", "now", "xyz456789"),
        ],
        {"tools": TOOLS},
    ),
    Conversation("calls without tools offered", [*ASKED, result("21")]),
    Conversation("reasoning", [HI, assistant("yes", reasoning_content="\nhm\n"), user("why?")]),
    Conversation("reasoning in the text", [HI, THOUGHT, user("why?"), THOUGHT], prompt=False),
    Conversation(
        "reasoning before a call",
        [user("Weather?"), assistant(None, thinking="need it", tool_calls=[WEATHER]), result("21")],
        {"tools": TOOLS},
    ),
    Conversation("content lists", [user(parts("a ", " b")), assistant(parts("c")), user(parts("d", "e"))]),
    Conversation("content lists everywhere", [system(parts("Be", "brief")), HI, *ASKED[1:], result(parts("2", "1"))]),
    Conversation("no thinking", [system("Be brief. /no_think"), HI], {"enable_thinking": False, "thinking": False}),
    Conversation(
        "arguments of templates",
        [HI],
        {
            "date_string": "1 Apr 2025",
            "enable_thinking": True,
            "reasoning_effort": "high",
            "controls": {"length": "long"},
        },
    ),
    Conversation("documents", [user("Do owls fly?")], {"documents": DOCUMENTS, "citation_mode": "fast"}),
    Conversation("continued", [HI, assistant("I am an")], GO_ON, prompt=False),
    Conversation("continued after spaces", [HI, assistant("Sure:  \n")], GO_ON, prompt=False),
    Conversation(
        "continued text that occurs before", [user("ab ab"), assistant("ab"), HI, assistant("ab")], GO_ON, False
    ),
]
