"""Paths that a redirect may lead to."""

import pytest

from worker.console.security import own_path


@pytest.mark.parametrize("target", ["/", "/dead-letters?x=1", "/a#b"])
def test_own_path_is_accepted(target: str) -> None:
    assert own_path(target) == target


@pytest.mark.parametrize("target", ["", None, "//x", "/\\x", "http://x", "x", "/a\\b", "/\t/x", "/a\nb"])
def test_path_to_another_site_is_refused(target: str | None) -> None:
    assert own_path(target) is None
