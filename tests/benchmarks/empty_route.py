"""Server of one route that returns nothing, through the libraries of the HTTP door, a process of its own."""

import sys

from flask import Flask, Response
from waitress import serve

PATH = "/empty"


def app() -> Flask:
    """Return the application."""
    empty = Flask("tests.benchmarks.empty_route")
    empty.add_url_rule(PATH, PATH, lambda: Response(b"{}", mimetype="application/json"))
    return empty


if __name__ == "__main__":
    serve(app(), host="127.0.0.1", port=int(sys.argv[1]), threads=10, ident=None)
