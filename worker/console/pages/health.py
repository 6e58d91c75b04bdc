"""Liveness of the console, for what restarts it: it needs no sign-in, whoever asks, and says nothing else."""

from http import HTTPStatus

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from worker.console.context import context

page = Blueprint("health", __name__)

#: Endpoint that anybody may ask, by any way.
ENDPOINT = "health.liveness"


@page.get("/healthz")
def liveness() -> ResponseReturnValue:
    """Say that the process lives; an outage of a server is no reason to restart it."""
    if context().application.health.is_live:
        return jsonify(state="live")
    return jsonify(state="stuck"), HTTPStatus.SERVICE_UNAVAILABLE
