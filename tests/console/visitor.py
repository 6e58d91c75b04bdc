"""Client of the console without a browser: follows no redirect, and sends forms with their token."""

import html
import re
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse


class Visitor:
    """Send requests with the cookies of earlier responses."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def get(self, path: str, status: int = 200, **more: Any) -> str:
        """Return the page at ``path``, which must come with ``status``."""
        with self.client.get(path, **more) as response:
            text = response.get_data().decode("utf-8", "replace")
            assert response.status_code == status, f"{path}: {response.status_code} {words(text)[:400]}"
        return text

    def post(self, path: str, /, status: int = 303, **fields: Any) -> TestResponse:
        """Send these fields as a form of ours; return the response, which must have ``status``."""
        response = self.client.post(path, data={"csrf_token": self.token(), **fields})
        assert response.status_code == status, f"{path}: {response.status_code} {words(response.text)[:400]}"
        return response

    def token(self) -> str:
        """Return the CSRF token that the forms of this session hold."""
        for path in ("/dead-letters/discard?n=1", "/", "/sign-in"):
            found = re.search(r'name="csrf_token" value="([^"]+)"', self.client.get(path).text)
            if found:
                return found[1]
        raise AssertionError("no form bears a token")

    def sign_in(self, name: str, password: str, status: int = 303) -> TestResponse:
        """Try to sign in."""
        return self.post("/sign-in", status=status, name=name, password=password)


def words(page: str) -> str:
    """Return the text of a page without its tags; white space becomes one space."""
    body = page.partition("<main")[2].partition("</main>")[0] or page
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def row_numbers(page: str) -> list[int]:
    """Return the numbers of the dead letters that a page lists."""
    return [int(number) for number in re.findall(r'<a data-row-link href="/dead-letters/(\d+)"', page)]
