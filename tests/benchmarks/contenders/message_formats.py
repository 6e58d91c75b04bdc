"""Deduction in the message formats of the contenders, as their own producers write it."""

from functools import cache
from importlib import import_module
from typing import Any

from schemas import DeductUsage
from worker.broker import Outgoing

#: The name of Celery's task and of Dramatiq's actor.
TASK = "usage.deduct"

_JSON = "application/json"


def plain_message(command: DeductUsage, queue: str) -> Outgoing:
    """JSON, as the worker gets it."""
    properties = {"message_id": command.reference_id, "content_type": _JSON, "app_id": "bench"}
    return Outgoing(command.to_json(), "", queue, properties)


def celery_message(command: DeductUsage, queue: str) -> Outgoing:
    """Celery's protocol 2. Needs the extra."""
    app, dumps = _celery()
    task = app.amqp.as_task_v2(command.reference_id, TASK, kwargs=_fields(command))
    content_type, encoding, body = dumps(task.body, serializer="json")
    properties = {**task.properties, "content_type": content_type, "content_encoding": encoding}
    return Outgoing(body.encode(), "", queue, properties, task.headers)


def dramatiq_message(command: DeductUsage, queue: str) -> Outgoing:
    """Dramatiq's JSON. Needs the extra."""
    message = import_module("dramatiq").Message(
        queue_name=queue, actor_name=TASK, args=(), kwargs=_fields(command), options={}
    )
    return Outgoing(message.encode(), "", queue)


def _fields(command: DeductUsage) -> dict[str, Any]:
    return command.model_dump(mode="json", exclude_none=True)


@cache
def _celery() -> tuple[Any, Any]:
    celery = import_module("celery").Celery("producer", set_as_current=False)
    return celery, import_module("kombu.serialization").dumps
