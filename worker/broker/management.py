"""RabbitMQ's management API, for tasks that AMQP lacks: read delivery limits, set policies."""

import base64
import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from worker.addresses import BrokerAddress, ManagementAddress, management_addresses
from worker.errors import BrokerUnavailableError, ConfigurationError
from worker.runtime.tls import tls_context

_TIMEOUT_S = 5.0
#: Default limit from this version on, without a policy.
_DEFAULT_LIMIT_SINCE, _DEFAULT_LIMIT = 4, 20


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """Messages a second into a queue and out of it, and when its oldest one was sent; None: not counted."""

    arrivals: float | None = None
    departures: float | None = None
    oldest_at: datetime | None = None

    @classmethod
    def parse(cls, found: Mapping[str, Any]) -> "QueueStatistics":
        """Return the statistics in what the API says of a queue."""
        counted = found.get("message_stats") or {}
        oldest_at = _moment(found.get("head_message_timestamp"))
        return cls(_rate(counted, "publish"), _rate(counted, "ack"), oldest_at)


#: A time that no clock shows: a sender wrote milliseconds, or anything.
_LATEST = 10**10


def _moment(seconds: object) -> datetime | None:
    """Return the time that a sender has written on a message; None where it is none."""
    if not isinstance(seconds, int) or not 0 < seconds < _LATEST:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _rate(counted: Mapping[str, Any], name: str) -> float | None:
    details = counted.get(f"{name}_details")
    rate = details.get("rate") if isinstance(details, dict) else None
    return float(rate) if isinstance(rate, int | float) else None


class Management:
    """The management API of the broker behind ``broker_url``, as the same user, with its certificates.

    ``url`` is the API's own address, such as ``http://broker:15672``, or several by commas, with or without a
    login of their own; where None, each node's host with the usual port. They are tried in turn. Every method
    raises BrokerUnavailableError where none answers or one refuses.
    """

    def __init__(self, broker_url: str, url: str | None = None) -> None:
        try:
            broker = BrokerAddress.parse(broker_url)
            self._addresses = list(management_addresses(broker, url))
        except ValueError as error:
            raise ConfigurationError(f"the URL of the broker or of its management API {error}") from None
        self._files = broker.files
        self._vhost = quote(broker.vhost, safe="")

    def delivery_limits(self, *queues: str) -> dict[str, int | None]:
        """Return each queue's delivery limit, above which it drops or dead-letters; None: no limit."""
        version = self._get("overview").get("rabbitmq_version", "")
        major = str(version).partition(".")[0]
        has_default = not major.isdigit() or int(major) >= _DEFAULT_LIMIT_SINCE
        default = _DEFAULT_LIMIT if has_default else None
        return {queue: self._limit(queue, default) for queue in queues}

    def queue_statistics(self, queue: str) -> QueueStatistics:
        """Return what the broker counts of a queue; a broker may be set to count no rates."""
        return QueueStatistics.parse(self._get(f"queues/{self._vhost}/{quote(queue, safe='')}"))

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
        content = self._request("GET", path)
        where = _where(self._addresses[0])
        try:
            found = json.loads(content)
        except ValueError as error:
            raise BrokerUnavailableError(f"{where} answers with no JSON") from error
        if not isinstance(found, dict):
            raise BrokerUnavailableError(f"{where} answers with no object")
        return found

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        """Return the answer of the first place that answers, which the next request begins with."""
        failures = []
        for address in list(self._addresses):
            try:
                status, content = self._request_to(address, method, path, body)
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{_where(address)} does not answer: {error}")
                continue
            self._addresses.remove(address)
            self._addresses.insert(0, address)
            if status >= http.HTTPStatus.BAD_REQUEST:
                raise BrokerUnavailableError(f"{_where(address)} answers {status} {_phrase(status)}")
            return content
        raise BrokerUnavailableError("; ".join(failures))

    def _request_to(
        self, address: ManagementAddress, method: str, path: str, body: str | None
    ) -> tuple[int, bytes]:
        login = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
        with closing(self._connection_to(address)) as connection:
            headers = {"Authorization": f"Basic {login}"}
            connection.request(method, f"{address.path}/api/{path}", body, headers)
            response = connection.getresponse()
            return response.status, response.read()

    def _connection_to(self, address: ManagementAddress) -> http.client.HTTPConnection:
        host, port = address.server.host, address.server.port
        if not address.is_secure:
            return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        context = tls_context(self._files)
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)


def _where(address: ManagementAddress) -> str:
    return f"the management API at {address.server}"


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "without a reason"
