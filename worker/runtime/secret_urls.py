"""Secrets of the settings that come from files: a whole URL, or the password of one.

``BILLING_BROKER_URL_FILE`` names a file that holds the value of ``BILLING_BROKER_URL``, as Docker's images do
it; ``BILLING_BROKER_PASSWORD_FILE`` one with the password alone, for a URL that names a user and none.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from worker.errors import ConfigurationError
from worker.runtime.secret_file import read_secret


class SecretUrl(NamedTuple):
    """Names of the settings of one URL: itself, its file, the file of its password."""

    url: str
    url_file: str
    password_file: str


#: The URLs that hold passwords.
SECRET_URLS = tuple(
    SecretUrl(f"{server}_url", f"{server}_url_file", f"{server}_password_file")
    for server in ("broker", "database", "read_database", "coordinator")
)
#: Settings that name a file; once it is read they are not set any more.
SECRET_FILES = frozenset(name for secret in SECRET_URLS for name in (secret.url_file, secret.password_file))

# A user before each ``@``, of one address or of several; and the first one with a password.
_USER = re.compile(r"(?:(?<=://)|(?<=[,;]))([^:@/?#,;]+)@")
_LOGIN = re.compile(r"://[^@/?#]*:[^@/?#]*@")


def with_secrets(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return ``values`` with what their files hold in place of the files' names.

    Raises ConfigurationError that names the variable, where a file can't be used or two say the same.
    """
    found = dict(values)
    for secret in SECRET_URLS:
        found.update(_read(secret, found, prefix))
    return found


def without_files(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``flags`` with the files of each URL among them left out: a flag comes before all variables."""
    left_out = {
        name: None
        for secret in SECRET_URLS
        if secret.url in flags
        for name in (secret.url_file, secret.password_file)
    }
    return {**left_out, **flags}


def _read(secret: SecretUrl, values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    url, url_variable = values.get(secret.url), _variable(secret.url, prefix)
    if (path := values.get(secret.url_file) or None) is not None:
        variable = _variable(secret.url_file, prefix)
        if url is not None:
            raise ConfigurationError(f"settings: {url_variable} and {variable} are both set: keep one")
        url = read_secret(Path(path), f"settings: {variable}")
        yield secret.url, url
    if (path := values.get(secret.password_file) or None) is not None:
        variable = _variable(secret.password_file, prefix)
        if url is None:
            raise ConfigurationError(
                f"settings: {variable} needs {url_variable}, with a user and no password"
            )
        plain = url.get_secret_value() if hasattr(url, "get_secret_value") else str(url)
        password = read_secret(Path(path), f"settings: {variable}")
        yield secret.url, _with_password(plain, password, f"settings: {url_variable}", variable)
    yield secret.url_file, None
    yield secret.password_file, None


def _with_password(url: str, password: str, what: str, variable: str) -> str:
    """Return ``url`` with the password behind each user, percent-encoded. Raises ConfigurationError."""
    if _LOGIN.search(url):
        raise ConfigurationError(f"{what} has a password, and {variable} is set: keep one")
    if not _USER.search(url):
        raise ConfigurationError(f"{what} names no user for the password of {variable}: scheme://user@host")
    return _USER.sub(lambda user: f"{user[1]}:{quote(password, safe='')}@", url)


def _variable(name: str, prefix: str) -> str:
    return prefix + name.upper()
