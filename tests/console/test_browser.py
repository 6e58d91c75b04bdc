"""Steps of a person in a real browser, on real servers, with a real worker: Debian's Chromium, headless."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    StaleElementReferenceException,
    WebDriverException,
)
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.console import furnishing
from tests.support.processes import ROOT, WorkerProcesses, worker_environment
from tests.support.provision import browser
from tests.support.waiting import eventually
from tests.support.witness import Witness
from worker.bootstrap import Application
from worker.console.people import Role, write_person

PASSWORD = "correct horse battery"


class Person:
    """Person at a browser, who reads pages, clicks and types. Each step waits for its page."""

    def __init__(self, driver: webdriver.Chrome, base: str) -> None:
        self.driver = driver
        self.base = base

    def goes_to(self, path: str) -> None:
        """Open a page of the console."""
        self.driver.get(self.base + path)

    @property
    def page(self) -> str:
        """Text of the page, as one line."""
        return " ".join(self.driver.find_element(By.TAG_NAME, "body").text.split())

    def sees(self, text: str) -> None:
        """Wait until the page says ``text``."""

        def is_there() -> bool:
            try:
                return text in self.page
            except WebDriverException:
                return False

        try:
            eventually(is_there, patience_s=20)
        except AssertionError:
            raise AssertionError(
                f"{text!r} is not on {self.driver.current_url}: {self.page[:1500]}"
            ) from None

    def clicks(self, text: str) -> None:
        """Click the first link or button that says ``text``, and wait until its page is there."""
        found = f"//main//a[contains(., '{text}')] | //main//button[contains(., '{text}')]"
        before = self.driver.find_element(By.TAG_NAME, "html")
        self._try(lambda: self.driver.find_element(By.XPATH, found).click())
        eventually(lambda: _is_gone(before), patience_s=20, what=f"a page behind {text!r}")

    def types(self, name: str, text: str) -> None:
        """Put ``text`` into the field of this name, instead of what is in it."""
        field = self.driver.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)

    def presses(self, *keys: str) -> None:
        """Press keys, one after the other."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def _try(self, act: Callable[[], None]) -> None:
        """Try ``act`` again where its part of the page is replaced meanwhile."""
        for _ in range(5):
            try:
                return act()
            except (StaleElementReferenceException, ElementClickInterceptedException):
                continue
        return act()


def _is_gone(element: WebElement) -> bool:
    try:
        element.is_enabled()
    except WebDriverException:  # stale, or part of a document that is being replaced
        return True
    return False


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    """One browser for all of these tests."""
    found = browser()
    options = webdriver.ChromeOptions()
    options.binary_location = str(found.chromium)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(str(found.driver)))
    yield chrome
    chrome.quit()


@pytest.fixture
def open_console(application: Application) -> Iterator[Callable[..., str]]:
    """Start the console as an operator does, and return its address."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "console", "--listen", "127.0.0.1:0", *arguments],
            env={**worker_environment(application.settings), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            cwd=os.fspath(ROOT),
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        assert line.startswith("console on http://"), line
        return line.removeprefix("console on ").rstrip("/")

    yield start
    for process in started:
        process.terminate()
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()


def complaints_of(driver: webdriver.Chrome) -> list[str]:
    """Return the errors that the browser has logged since the last call."""
    entries: list[dict[str, str]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    # A test asks for each page that is answered with 4xx.
    severe = (entry for entry in entries if entry["level"] == "SEVERE" and entry["source"] != "network")
    return [entry["message"] for entry in severe]


@pytest.fixture
def ann(driver: webdriver.Chrome, open_console: Callable[..., str]) -> Iterator[Person]:
    """An operator at the machine itself, with a window of the usual size."""
    driver.set_window_size(1280, 900)
    complaints_of(driver)
    yield Person(driver, open_console())
    complaints = complaints_of(driver)
    driver.get("about:blank")
    driver.delete_all_cookies()
    assert complaints == []  # no script failed, and nothing broke the content security policy


def quoted(number: int) -> dict[str, object]:
    """Return a command that a worker refuses: its tokens are a text."""
    return {"type": "usage.deduct", "referenceId": f"scan-{number}", "userId": "ada", "tokens": "250"}


def park_good(application: Application, count: int) -> None:
    """Drain dead letters whose fault is gone."""
    now = datetime.now(UTC)
    dead_letters = (furnishing.refused({**quoted(n), "tokens": 10}, now) for n in range(count))
    furnishing.park(application.service(), dead_letters)


def test_a_dead_letter_is_found_mended_tried_and_replayed_until_the_balance_shows_it(
    ann: Person, application: Application, workers: WorkerProcesses, witness: Witness
) -> None:
    workers.start()
    witness.request({"type": "account.open", "referenceId": "open", "userId": "ada", "tier": "free"})
    witness.publish_all([quoted(number) for number in range(4)])
    eventually(lambda: witness.depth("billing.dead") == 4)

    ann.goes_to("/")
    ann.sees("consumers: 1 of billing.payments, 1 of billing.usage")
    ann.sees("dead letters, not parked yet Park them 4")
    ann.clicks("Park them")
    ann.sees("Parked 4 letters")
    (entry,) = application.service().activity_log(action="park").entries
    assert (entry.subject, entry.detail["letters"]) == ("billing.dead", 4)
    ann.clicks("invalid_field")  # the group
    ann.sees("Waiting 4")
    ann.clicks("Open the latest letter")
    ann.sees("A worker of today would refuse this body")
    number = int(ann.driver.current_url.rsplit("/", 1)[1])

    ann.clicks("Edit")
    mended = json.dumps({**quoted(0), "tokens": "many"})
    ann.types("body", mended)
    ann.clicks("Check")
    ann.sees("A worker would refuse this: invalid field at tokens")
    ann.types("body", mended.replace('"many"', "250"))
    ann.types("why", "tokens were quoted")
    ann.clicks("Save the edit")
    ann.sees("The body was mended")

    ann.clicks("Dry run")
    ann.sees("Those that apply would move 250 tokens")
    assert application.service().dead_letter(number).status == "parked"

    ann.clicks("Replay…")
    ann.types("why", "the canary of them")
    ann.clicks("Replay")
    ann.sees("finished")
    ann.sees("1 of 1 settled")
    ann.sees("applied 1")
    ann.clicks(f"#{number}")
    ann.sees("resolved")
    ann.sees("Deducted 250 tokens")
    ann.clicks("ada")
    ann.sees("Available 9,750")

    ann.goes_to("/audit")
    ann.sees("tokens were quoted")
    ann.sees("the canary of them")


def test_a_canary_stops_by_itself_and_says_why(
    ann: Person, application: Application, workers: WorkerProcesses, witness: Witness
) -> None:
    workers.start()
    witness.request({"type": "account.open", "referenceId": "open", "userId": "ada", "tier": "free"})
    now = datetime.now(UTC)
    furnishing.park(application.service(), [furnishing.refused(quoted(n), now) for n in range(9)])

    ann.goes_to("/letters")
    ann.clicks("invalid_field")
    ann.clicks("Replay…")
    ann.types("why", "nothing was mended")
    ann.clicks("Replay")
    ann.sees("stopped")
    ann.sees("1 of 9 settled")
    ann.sees("failed again 1")
    ann.sees("waiting 8")
    counts = application.service().counts()
    assert (counts.resolved, counts.discarded) == (0, 0)


def test_a_replay_is_watched_paused_and_resumed(
    ann: Person, application: Application, workers: WorkerProcesses, witness: Witness
) -> None:
    workers.start()
    witness.request({"type": "account.open", "referenceId": "open", "userId": "ada", "tier": "free"})
    park_good(application, 40)

    ann.goes_to("/letters/replay?reason=unprocessable")
    ann.types("why", "the fault is gone")
    ann.driver.find_element(By.CSS_SELECTOR, "input[value=all]").click()
    ann.types("rate", "10")
    ann.clicks("Replay")
    ann.sees("running")
    eventually(lambda: application.service().replay(1).counts["applied"] >= 3)
    ann.clicks("Pause")
    ann.sees("paused")
    eventually(lambda: application.service().replay(1).state == "paused")
    assert application.service().replay(1).counts["waiting"] > 0
    ann.goes_to("/replays/1")
    ann.clicks("Resume")
    ann.sees("40 of 40 settled")  # without a click: the page follows by itself
    ann.sees("finished")
    ann.goes_to("/account?user=ada")
    ann.sees("Available 9,600")


def test_a_discard_is_undone(ann: Person, application: Application) -> None:
    park_good(application, 5)
    ann.goes_to("/letters/list")
    for place in (1, 3):
        ann.driver.find_element(By.XPATH, f"(//tbody//input[@name='n'])[{place}]").click()
    ann.sees("With the 2 chosen")
    ann.clicks("Discard…")
    ann.types("why", "tests of theirs")
    ann.clicks("Discard")
    ann.sees("Discarded 2 letters")
    assert application.service().counts().discarded == 2
    ann.clicks("Undo")
    ann.sees("Restored 2 letters")
    assert application.service().counts().parked == 5


def test_the_keyboard_is_enough(ann: Person, application: Application) -> None:
    park_good(application, 3)
    ann.goes_to("/")
    ann.sees("nobody consumes billing.payments and billing.usage: start a worker")
    ann.presses("?")
    ann.sees("next and previous row")
    ann.presses(Keys.ESCAPE)
    ann.presses("g", "d")
    ann.sees("What failed")
    ann.presses("j", Keys.ENTER)
    ann.sees("Fingerprint")
    ann.presses("j", "j", Keys.ENTER)
    ann.sees("Letter 2")
    ann.presses("/")
    ann.driver.switch_to.active_element.send_keys("#3", Keys.ENTER)
    ann.sees("Letter 3")
    ann.goes_to("/letters")
    ann.presses(Keys.TAB, Keys.ENTER)
    assert ann.driver.current_url.endswith("#main")


def test_a_viewer_signs_in_and_can_only_look(
    driver: webdriver.Chrome, open_console: Callable[..., str], application: Application, tmp_path: Path
) -> None:
    people = tmp_path / "people"
    write_person(people, "vic", Role.VIEWER, PASSWORD)
    park_good(application, 1)
    vic = Person(driver, open_console("--users", str(people)))
    vic.goes_to("/letters/1")
    vic.sees("Sign in")
    vic.types("name", "vic")
    vic.types("password", "wrong")
    vic.clicks("Sign in")
    vic.sees("That name and password don't belong together")
    vic.types("password", PASSWORD)
    vic.clicks("Sign in")
    vic.sees("Letter 1")
    vic.sees("viewer")
    for action in ("Edit", "Replay", "Discard", "Keep the note"):
        assert f"{action}…" not in vic.page
    vic.goes_to("/letters/1/edit")
    vic.sees("Only for operators")
    driver.find_element(By.XPATH, "//button[contains(., 'Sign out')]").click()
    vic.sees("Sign in")


PAGES = (
    "/", "/letters", "/letters/list", "/letters/1", "/letters/3", "/letters/5", "/letters/3/edit",
    "/letters/dry-run?n=1&n=3", "/letters/replay?n=1", "/letters/discard?n=1", "/replays", "/accounts",
    f"/account?user={'x' * 200}", f"/account/history?user={'x' * 200}", f"/account/usage?user={'x' * 200}",
    f"/account/statement?user={'x' * 200}", f"/explain?reference={'r' * 180}3", "/audit", "/nowhere",
)  # fmt: skip


def test_no_page_is_wider_than_a_small_phone_or_a_small_screen_whatever_is_on_it(
    driver: webdriver.Chrome, open_console: Callable[..., str], application: Application
) -> None:
    furnishing.large(
        application.engine, application.service(), application.catalog, datetime.now(UTC), groups=20
    )
    person = Person(driver, open_console())
    try:
        for width in (360, 1024):
            screen = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            for path in PAGES:
                person.goes_to(path)
                wide = driver.execute_script("return document.documentElement.scrollWidth")
                assert wide <= width, path
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_light_and_dark_follow_the_system_until_one_chooses(ann: Person) -> None:
    def background() -> str:
        script = "return getComputedStyle(document.body).backgroundColor"
        colour: str = ann.driver.execute_script(script)
        return colour

    def prefers(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        ann.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    ann.goes_to("/letters")
    prefers("light")
    light = background()
    prefers("dark")
    dark = background()
    assert light != dark
    ann.driver.find_element(By.CSS_SELECTOR, "#theme option[value=light]").click()
    eventually(lambda: background() == light)
    ann.goes_to("/audit")
    assert background() == light
    prefers("light")


def test_without_javascript_everything_can_be_done(ann: Person, application: Application) -> None:
    park_good(application, 2)
    ann.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        ann.goes_to("/letters")
        ann.clicks("unprocessable")
        ann.clicks("Open the latest letter")
        ann.clicks("Edit")
        text = json.dumps({**quoted(1), "tokens": 11})
        ann.types("body", text)
        ann.types("why", "eleven")
        ann.clicks("Save the edit")
        ann.sees("The body was mended")
        ann.clicks("Discard…")
        ann.types("why", "after all not")
        ann.clicks("Discard")
        ann.sees("Discarded 1 letter")
        ann.clicks("Undo")
        ann.sees("parked")
    finally:
        ann.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
