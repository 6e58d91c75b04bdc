"""Work that may read much: bounded for each user and in all, so that other pages stay quick."""

from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.exceptions import ServiceUnavailable, TooManyRequests

from worker.http.permits import NoPermitError, Permits, Shares, ShareUsedError

#: Heavy pages in work at a time: of one user, in all, and those that wait for their turn, for so long.
EACH, IN_ALL, WAITING, WAIT_S = 2, 3, 2, 3.0
#: Seconds until the next try, as the refusal says.
RETRY_AFTER_S = 5

_KINDS = "dry runs, edits of sets, explanations, statements, usage, reports, exports, searches, sorted lists"


class HeavyWork:
    """Permits of the heavy pages."""

    def __init__(self, *, each: int = EACH, in_all: int = IN_ALL, wait_s: float = WAIT_S) -> None:
        self._each, self._shares = each, Shares(each)
        self._permits = Permits(in_all, wait_s, waiting=WAITING)

    @contextmanager
    def one(self, user: str) -> Iterator[None]:
        """Do heavy work of ``user`` in the block. Raises TooManyRequests and ServiceUnavailable."""
        try:
            with self._shares.one(user), self._permits.one():
                yield
        except ShareUsedError:
            raise TooManyRequests(
                f"You have {self._each} pages in work that read much ({_KINDS}). "
                f"Try again when one of them is there, or in {RETRY_AFTER_S} s.",
                retry_after=RETRY_AFTER_S,
            ) from None
        except NoPermitError:
            raise ServiceUnavailable(
                f"Others have as many pages in work that read much ({_KINDS}) as this console works on. "
                f"Try again in {RETRY_AFTER_S} s.",
                retry_after=RETRY_AFTER_S,
            ) from None
