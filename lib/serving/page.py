"""The live page: one HTML file, which a browser lets load nothing and run nothing but what it holds and this server answers."""

import base64
import hashlib
import re
from importlib.resources import files

SCRIPT, STYLE = (re.compile(rb"<" + name + rb">(.*?)</" + name + rb">", re.DOTALL) for name in (b"script", b"style"))


def read_page() -> bytes:
    """The page as it is sent."""
    return (files("lib.serving") / "page.html").read_bytes()


def headers_of(page: bytes) -> dict[str, str]:
    """Headers of the page: its one script and style are known by their hashes, so that no other runs, wherever it came from."""
    rules = {
        "default-src": "'none'",
        "script-src": _hashes(SCRIPT, page),
        "style-src": _hashes(STYLE, page),
        "img-src": "blob:",  # pictures of adverts, which are fetched with the token
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in rules.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _hashes(element: re.Pattern[bytes], page: bytes) -> str:
    found = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in element.findall(page)]
    return " ".join(f"'sha256-{one}'" for one in found) or "'none'"
