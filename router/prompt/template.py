"""A chat as one text, as SGLang renders it with the model's own template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

# A template that loops over the parts of a message gets parts; any other gets one text.
_LOOPS_OVER_PARTS = re.compile(r"for\s+\w+\s+in\s+(?:message|msg|m)(?:\.content|\[['\"]content['\"]\])")
_MEDIA = ("image", "audio", "video", "vision")


class Unrenderable(ValueError):
    """The router cannot render this chat; the text is the reason, in a word or two."""


class ChatTemplate:
    """A Jinja template. `specials`: the tokenizer's named tokens (such as bos_token), which templates use."""

    def __init__(self, source: str, specials: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise, strftime_now=_strftime_now)
        self._template = environment.from_string(source)
        self._specials = dict(specials)
        self._parts = bool(_LOOPS_OVER_PARTS.search(source)) or any(name in source for name in _MEDIA)

    def render(self, fields: Mapping[str, Any]) -> str:
        """The prompt of a /v1/chat/completions body. Raises Unrenderable."""
        if fields.get("continue_final_message"):
            raise Unrenderable("continue_final_message")
        messages = [_message(message, self._parts) for message in fields["messages"]]
        extra = fields.get("chat_template_kwargs") or {}
        if (effort := fields.get("reasoning_effort")) is not None:
            extra = {"reasoning_effort": effort, **extra}
        known = {"messages": messages, "tools": _tools(fields), "documents": None}
        try:
            return self._template.render(
                **{**self._specials, **known, "add_generation_prompt": True, **extra}
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise Unrenderable("template") from error


def _message(given: Any, parts: bool) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Unrenderable("messages")
    message = {name: value for name, value in given.items() if value is not None}
    content = message.get("content", "")
    if isinstance(content, list):
        texts = [_text(part) for part in content]
        plain = not parts or message.get("role") == "tool"
        content = " ".join(texts) if plain else [{"type": "text", "text": text} for text in texts]
    message["content"] = content
    if "tool_calls" in message:
        message["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return message


def _text(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") not in ("text", "input_text"):
        raise Unrenderable("media")
    return str(part.get("text"))


def _call(given: Any) -> Any:
    """A tool call whose arguments are an object, as templates want them; clients send JSON in a string."""
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return given
    try:
        arguments = orjson.loads(function["arguments"])
    except ValueError:
        return given
    return {**given, "function": {**function, "arguments": arguments}}


def _tools(fields: Mapping[str, Any]) -> list[Any] | None:
    given, choice = fields.get("tools"), fields.get("tool_choice")
    if not isinstance(given, list) or choice == "none":
        return None
    tools = [_tool(tool) for tool in given]
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        tools = [tool for tool in tools if tool["function"].get("name") == name]
    return tools or None


def _tool(given: Any) -> dict[str, Any]:
    """As SGLang hands it to a template: as given, with the fields of SGLang's own form of a tool."""
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict):
        raise Unrenderable("tools")
    full = {**function, **{name: None for name in ("description", "parameters") if name not in function}}
    kind, defers = given.get("type", "function"), given.get("defer_loading")
    return {"type": kind, "function": full, "defer_loading": defers}


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own would escape HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
