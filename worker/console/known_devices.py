"""Cookie of a browser that has signed in: it opens nothing, and lets its user sign in while others guess.

It names the user and has a key of its own, signed by the secret of the sessions.
"""

from secrets import token_hex

from flask import Request, Response
from itsdangerous import BadData, URLSafeTimedSerializer

_COOKIE, _SALT = "billing_console_device", "device that has signed in"
_LIFETIME_S = 180 * 24 * 3600


class KnownDevices:
    """Makes and reads the cookie; ``through_https`` sends it no other way."""

    def __init__(self, secret: bytes, *, through_https: bool) -> None:
        self._signer = URLSafeTimedSerializer(secret, salt=_SALT)
        self._through_https = through_https

    def key_of(self, request: Request, name: str) -> str | None:
        """Return the key of a browser that has signed in under ``name``; None for any other."""
        try:
            found = self._signer.loads(request.cookies.get(_COOKIE, ""), max_age=_LIFETIME_S)
        except BadData:
            return None
        match found:
            case [str(owner), str(key)] if owner == name:
                return key
            case _:
                return None

    def remember(self, response: Response, name: str) -> None:
        """Give the browser a cookie of its own, after it has signed in under ``name``."""
        response.set_cookie(
            _COOKIE,
            str(self._signer.dumps([name, token_hex(16)])),
            max_age=_LIFETIME_S,
            path="/sign-in",
            secure=self._through_https,
            httponly=True,
            samesite="Strict",
        )
