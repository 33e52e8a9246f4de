"""Answers of the HTTP servers that stand in for an engine or a cluster. No assertions."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler


def send_answer(handler: BaseHTTPRequestHandler, code: int, answer: object, raw_type: str = "") -> None:
    """Send text as it stands, bytes as `raw_type`, nothing for None, and everything else as JSON."""
    match answer:
        case None:
            content, kind = b"", "application/json"
        case bytes():
            content, kind = answer, raw_type
        case str():
            content, kind = answer.encode(), "text/plain"
        case _:
            content, kind = json.dumps(answer).encode(), "application/json"
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    if answer is not None:
        handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
