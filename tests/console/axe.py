"""axe-core in a page: rules of accessibility that a machine can judge."""

import json
from collections.abc import Sequence
from typing import Any, Final

from selenium import webdriver

from tests.support import node

_SCRIPT: Final = node.FOLDER / "node_modules" / "axe-core" / "axe.min.js"
_RUN: Final = """
const [options, done] = arguments;
axe.run(document, options).then((found) => done(found.violations), (error) => done(String(error)));
"""
#: Rule of colours, which alone may differ between light and dark.
CONTRAST: Final = ("color-contrast",)


def install(driver: webdriver.Chrome) -> str:
    """Put axe-core into each page that the browser opens from now on; return a name for ``remove``."""
    node.install()
    # Not a script of the page: its content security policy allows none of others.
    given = {"source": _SCRIPT.read_text(encoding="utf-8")}
    added: dict[str, str] = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", given)
    return added["identifier"]


def remove(driver: webdriver.Chrome, name: str) -> None:
    """Undo ``install``."""
    driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": name})


def findings(driver: webdriver.Chrome, only: Sequence[str] = ()) -> list[str]:
    """Return a line for each element of the page that breaks a rule; ``only`` names the rules to run."""
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    options |= {"runOnly": [*only]} if only else {"rules": {"target-size": {"enabled": True}}}
    found = driver.execute_async_script(_RUN, options)
    assert isinstance(found, list), found
    return [
        f"{rule['id']}: {rule['help']}: {json.dumps(each['target'])} {each['html'][:200]}"
        for rule in found
        for each in rule["nodes"]
    ]
