"""Mark of the views that may read much, which the context's ``HeavyWork`` bounds."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from worker.console.context import context, current_user

P = ParamSpec("P")
R = TypeVar("R")


def heavy(view: Callable[P, R]) -> Callable[P, R]:
    """Bound a view that may read much."""

    @wraps(view)
    def bounded(*args: P.args, **kwargs: P.kwargs) -> R:
        with context().heavy.one(current_user().name):
            return view(*args, **kwargs)

    return bounded


def heavy_when(condition: Callable[[], bool]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Bound the requests of a view of which ``condition`` is true."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        bounded = heavy(view)

        @wraps(view)
        def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
            return bounded(*args, **kwargs) if condition() else view(*args, **kwargs)

        return chosen

    return decorate
