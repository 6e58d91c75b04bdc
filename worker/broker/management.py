"""RabbitMQ's management API, for tasks that AMQP lacks: read delivery limits, set policies."""

import base64
import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from worker.errors import BrokerUnavailableError

_TIMEOUT_S = 5.0
_PORTS = {"http": 15672, "https": 15671}
#: Default limit from this version on, without a policy.
_DEFAULT_LIMIT_SINCE, _DEFAULT_LIMIT = 4, 20


class Management:
    """The management API of the broker behind ``broker_url``, as the same user.

    ``url`` is the API's own address, such as ``http://broker:15672``; where None, the broker's host with the
    usual port. Every method raises BrokerUnavailableError where the API does not answer or refuses.
    """

    def __init__(self, broker_url: str, url: str | None = None) -> None:
        broker = urlsplit(broker_url)
        secure = broker.scheme == "amqps"
        scheme = "https" if secure else "http"
        address = urlsplit(url or f"{scheme}://{broker.hostname}:{_PORTS[scheme]}")
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self._address, self._kind = address, kind
        self._vhost = quote(unquote(broker.path[1:]) or "/", safe="")
        login = f"{unquote(broker.username or 'guest')}:{unquote(broker.password or 'guest')}"
        self._headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}

    def delivery_limits(self, *queues: str) -> dict[str, int | None]:
        """Return each queue's delivery limit, above which it drops or dead-letters; None: no limit."""
        version = self._get("overview").get("rabbitmq_version", "")
        major = str(version).partition(".")[0]
        has_default = not major.isdigit() or int(major) >= _DEFAULT_LIMIT_SINCE
        default = _DEFAULT_LIMIT if has_default else None
        return {queue: self._limit(queue, default) for queue in queues}

    def set_policy(self, name: str, pattern: str, definition: Mapping[str, str | int]) -> None:
        """Set a policy for queues; needs the tag ``policymaker``."""
        policy = {"pattern": pattern, "definition": dict(definition), "apply-to": "queues"}
        self._request("PUT", f"policies/{self._vhost}/{quote(name, safe='')}", json.dumps(policy))

    def _limit(self, queue: str, default: int | None) -> int | None:
        found = self._get(f"queues/{self._vhost}/{quote(queue, safe='')}")
        policy = found.get("effective_policy_definition") or {}
        arguments = found.get("arguments") or {}
        limits = [policy.get("delivery-limit"), arguments.get("x-delivery-limit")]
        said = [limit for limit in limits if isinstance(limit, int)]
        if not said:
            return default
        limited = [limit for limit in said if limit >= 0]
        return min(limited) if limited else None

    def _get(self, path: str) -> dict[str, Any]:
        try:
            found = json.loads(self._request("GET", path))
        except ValueError as error:
            raise BrokerUnavailableError(f"{self._where} answers with no JSON") from error
        if not isinstance(found, dict):
            raise BrokerUnavailableError(f"{self._where} answers with no object")
        return found

    @property
    def _where(self) -> str:
        return f"the management API at {self._address.netloc.rpartition('@')[2]}"

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        try:
            connection = self._kind(self._address.hostname or "", self._address.port, timeout=_TIMEOUT_S)
            with closing(connection):
                where_to = f"{self._address.path.rstrip('/')}/api/{path}"
                connection.request(method, where_to, body, self._headers)
                response = connection.getresponse()
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BrokerUnavailableError(f"{self._where} does not answer: {error}") from error
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise BrokerUnavailableError(f"{self._where} answers {response.status} {response.reason}")
        return content
