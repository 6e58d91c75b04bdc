"""Pictures of the console for the documents, taken from the sample data: not a test of anything.

Run as ``python -m pytest -n 0 tests/console/take_pictures.py`` after the pages have changed. A palette of 256
colours (``pngquant``) makes the files a third as large.
"""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.console import sample_data
from tests.console.browser import BrowserUser
from tests.console.conftest import PASSWORD
from tests.support.processes import WorkerProcesses
from worker.bootstrap import Application

_PICTURES = Path(__file__).parent / "pictures"
_WIDTH = 1280


def test_pictures_are_taken(
    driver: webdriver.Chrome,
    open_console: Callable[..., str],
    application: Application,
    workers: WorkerProcesses,
    users_file: Path,
) -> None:
    workers.start()
    service = application.service()
    sample_data.small(application.engine, service, application.catalog, datetime.now(UTC))
    ann = BrowserUser(driver, open_console("--users", str(users_file)))
    driver.set_window_size(_WIDTH, 900)
    ann.goes_to("/")
    ann.types("name", "ann")
    ann.types("password", PASSWORD)
    ann.clicks("Sign in")
    ann.sees("billing.payments has 1 consumer")
    _replay_edited(ann)
    _take(ann, "dead_letter", scheme="dark")
    ann.goes_to("/")
    ann.sees("Users 6")
    _take(ann, "overview", scheme="light")


def _replay_edited(ann: BrowserUser) -> None:
    """Edit and replay dead letter 1, and stay on its page."""
    ann.goes_to("/dead-letters/1")
    ann.clicks("Edit…")
    body = json.loads(ann.driver.find_element(By.NAME, "body").get_attribute("value") or "")
    ann.types("body", json.dumps({**body, "tokens": int(body["tokens"])}))
    ann.types("reason", "The scan service quoted its numbers until 09:10")
    ann.clicks("Save edit")
    ann.clicks("Replay…")
    ann.types("reason", "The scan service is fixed")
    ann.clicks("Replay")
    ann.sees("1 of 1 done")
    ann.goes_to("/dead-letters/1")
    ann.sees("resolved")


def _take(ann: BrowserUser, name: str, *, scheme: str) -> None:
    """Write a picture of the whole page in the colour scheme."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    ann.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    height = ann.driver.execute_script("return document.querySelector('.page').scrollHeight")
    screen = {"width": _WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
    ann.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    picture = ann.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    (_PICTURES / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))
    ann.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
