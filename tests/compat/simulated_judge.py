"""A judge without a model: what it answers fits whatever schema it is asked for."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REASON = "It names the city."


def filled(schema: dict[str, Any], *, score: float, root: dict[str, Any] | None = None) -> Any:
    """A value that fits a JSON Schema: numbers are `score`, texts a reason, lists have one item."""
    root = root or schema
    if "$ref" in schema:
        found = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return filled(found, score=score, root=root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return filled(schema[several][0], score=score, root=root)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        fields = schema.get("properties", {}).items()
        verdict = {"result": "yes" if score >= 0.5 else "no"}
        return {
            name: verdict.get(name) or filled(field, score=score, root=root)
            for name, field in fields
        }
    if kind == "array":
        return [filled(schema.get("items", {}), score=score, root=root)]
    if kind == "boolean":
        return score >= 0.5
    if kind == "integer":
        return round(score)
    return score if kind == "number" else REASON


class OpenAIShaped:
    """An OpenAI-shaped server on loopback; `score` is what it gives, `text` its plain answers."""

    def __init__(self) -> None:
        self.score = 1.0
        self.text = json.dumps({"score": 1.0, "reason": REASON})
        self.requests: list[dict[str, Any]] = []
        self.url = ""

    def reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The body of the answer to one request."""
        self.requests.append(body)
        if path.endswith("/embeddings"):
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            data = [
                {"object": "embedding", "index": n, "embedding": letters(text)}
                for n, text in enumerate(texts)
            ]
            used = {"prompt_tokens": 1, "total_tokens": 1}
            return {"object": "list", "data": data, "model": body["model"], "usage": used}
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        form = body.get("response_format") or {}
        if body.get("tools"):
            function = body["tools"][0]["function"]
            arguments = json.dumps(filled(function["parameters"], score=self.score))
            call = {"name": function["name"], "arguments": arguments}
            calls = [{"id": "call_1", "type": "function", "function": call}]
            message |= {"content": None, "tool_calls": calls}
        elif form.get("type") == "json_schema":
            schema = form["json_schema"]["schema"]
            message["content"] = json.dumps(filled(schema, score=self.score))
        elif schema := schema_in(str(body["messages"][0]["content"])):
            message["content"] = json.dumps(filled(schema, score=self.score))
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }


def schema_in(text: str) -> dict[str, Any] | None:
    """A JSON Schema that stands in a prompt."""
    for found in re.finditer(r"\{", text):
        try:
            schema, _end = json.JSONDecoder().raw_decode(text, found.start())
        except ValueError:
            continue
        if isinstance(schema, dict) and "properties" in schema:
            return schema
    return None


def letters(text: Any) -> list[float]:
    """A text as how often each letter is in it: an embedding that anyone can recompute."""
    counted = re.sub(r"[^a-z]", "", str(text).lower())
    return [float(counted.count(chr(97 + n))) for n in range(26)]


@contextmanager
def openai_shaped() -> Iterator[OpenAIShaped]:
    """The server, while the block runs."""
    served = OpenAIShaped()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(served.reply(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
