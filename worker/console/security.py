"""Rules for every request and response: cookies, limits, headers."""

from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Request, Response

from worker.console.guard import SESSION_S

#: Nothing is loaded from elsewhere, nothing inline is run, no other site may frame a page or be sent a form.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
}

#: A dead letter's body has at most 256 KiB; in a form each byte may be three.
REQUEST_MAX = 2 * 1024 * 1024


def secure(app: Flask, secret: bytes, *, through_https: bool) -> None:
    """Set the rules of cookies, the limits of a request, and the headers of every response."""
    app.config.update(
        SECRET_KEY=secret,
        SESSION_COOKIE_NAME="billing_console",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=through_https,
        PERMANENT_SESSION_LIFETIME=SESSION_S,
        MAX_CONTENT_LENGTH=REQUEST_MAX,
        MAX_FORM_MEMORY_SIZE=REQUEST_MAX,
        WTF_CSRF_TIME_LIMIT=None,  # a token lives as long as its session
    )

    @app.after_request
    def _headers(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers[name] = value
        if response.headers.get("Cache-Control") is None:
            response.headers["Cache-Control"] = "no-store"
        if through_https:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        return response


def has_unstorable_text(request: Request) -> bool:
    """Return True where a parameter holds what no database stores: a NUL or half of a surrogate pair."""
    pairs: list[tuple[str, Any]] = [*request.args.items(multi=True), *request.form.items(multi=True)]
    return any(
        "\0" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text)
        for pair in pairs
        for text in pair
        if isinstance(text, str)
    )


def own_path(target: str | None) -> str | None:
    """Return ``target`` where it is a path of this console; None for anything that leads elsewhere."""
    if not target or not target.startswith("/") or target.startswith(("//", "/\\")):
        return None
    if not target.isprintable():  # browsers leave some of it out, and no header may hold it
        return None
    parts = urlsplit(target)
    return None if parts.scheme or parts.netloc or "\\" in target else target
