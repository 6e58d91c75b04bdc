"""Somebody at the console without a browser: follows no redirect, and sends forms with their token."""

import html
import re
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse


class Visitor:
    """Sends requests with the cookies of those before."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def get(self, path: str, status: int = 200, **more: Any) -> str:
        """The page at ``path``, which must come with ``status``."""
        with self.client.get(path, **more) as response:
            text = response.get_data().decode("utf-8", "replace")
            assert response.status_code == status, f"{path}: {response.status_code} {words(text)[:400]}"
        return text

    def post(self, path: str, /, status: int = 303, **fields: Any) -> TestResponse:
        """The answer to a form of ours with these fields, which must come with ``status``."""
        response = self.client.post(path, data={"csrf_token": self.token(), **fields})
        assert response.status_code == status, f"{path}: {response.status_code} {words(response.text)[:400]}"
        return response

    def token(self) -> str:
        """What a form of this session bears."""
        for path in ("/letters/discard?n=1", "/", "/sign-in"):
            found = re.search(r'name="csrf_token" value="([^"]+)"', self.client.get(path).text)
            if found:
                return found[1]
        raise AssertionError("no form bears a token")

    def sign_in(self, name: str, password: str, status: int = 303) -> TestResponse:
        """Try to sign in."""
        return self.post("/sign-in", status=status, name=name, password=password)


def words(page: str) -> str:
    """What a page says, without its tags; white space is one space."""
    body = page.partition("<main")[2].partition("</main>")[0] or page
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def row_numbers(page: str) -> list[int]:
    """The numbers of the letters that a page lists."""
    return [int(number) for number in re.findall(r'<a data-open href="/letters/(\d+)"', page)]
