"""Fills app.html, the page without data, so that nothing of a run can become markup or code of the page."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from raysearch.page.manifest import Page

TEMPLATE = Path(__file__).with_name("app.html")
HEAD, MANIFEST, COLUMNS = "<head>", "__MANIFEST__", "__COLUMNS__"
# How a page begins, and nothing else does: with this policy before all that the template has in its head.
OPENING = b"""<!doctype html>
<html lang="en">
<head>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'sha256-"""
PLACES = re.compile(f"({HEAD}|{MANIFEST}|{COLUMNS})")
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)  # those of the template that run
# In JSON that lies in a page: what could begin a tag, and what older scripts take for the end of a line.
ESCAPED = {"<": "\\u003c", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def text_of(value: Any) -> str:
    """JSON without a `<`, whatever is in its texts."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for c, escaped in ESCAPED.items():
        text = text.replace(c, escaped)
    return text


def policy(template: str, *, connects: bool = False) -> str:
    """The content security policy of a page: its own scripts alone, and no connection but, for a live page, its own."""
    hashes = [b64encode(sha256(script.encode()).digest()).decode() for script in SCRIPT.findall(template)]
    scripts = " ".join(f"'sha256-{h}'" for h in hashes)
    rules = {
        "default-src": "'none'",
        "script-src": f"{scripts} 'self' file:".lstrip(),
        "style-src": "'unsafe-inline'",
        "img-src": "'self' file: data: blob:",
        "media-src": "'self' file: data: blob:",
        "worker-src": "blob:",
        "connect-src": "'self'" if connects else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{k} {v}" for k, v in rules.items())


def filled(page: Page, *, template: str | None = None, connects: bool = False) -> bytes:
    """The page as a file."""
    template = template if template is not None else TEMPLATE.read_text()
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy(template, connects=connects)}">'
    found = {HEAD: f"{HEAD}\n{meta}", MANIFEST: text_of(page.manifest), COLUMNS: b64encode(page.columns).decode()}
    parts = PLACES.split(template)
    assert sorted(parts[1::2]) == sorted(found), f"{TEMPLATE} lacks a place, or has one twice"
    return "".join(found.get(part, part) for part in parts).encode("utf-8", "replace")
