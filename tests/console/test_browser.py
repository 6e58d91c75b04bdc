"""Steps of a user in a real browser, with real servers and a real worker."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from schemas import DeductUsage, OpenAccount
from tests.console import axe, every_page, sample_data
from tests.console.browser import BrowserUser
from tests.console.conftest import PASSWORD
from tests.console.sample_data import HOSTILE
from tests.support.apply_commands import applied
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.bootstrap import Application
from worker.console.users import Role, write_user
from worker.reversing import store


def complaints_of(driver: webdriver.Chrome) -> list[str]:
    """Return the errors that the browser has logged since the last call."""
    entries: list[dict[str, str]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    # A test asks for each page that is answered with 4xx.
    severe = (entry for entry in entries if entry["level"] == "SEVERE" and entry["source"] != "network")
    return [entry["message"] for entry in severe]


@pytest.fixture
def ann(driver: webdriver.Chrome, open_console: Callable[..., str]) -> Iterator[BrowserUser]:
    """Operator at the machine itself, with a window of the usual size."""
    driver.set_window_size(1280, 900)
    complaints_of(driver)
    yield BrowserUser(driver, open_console())
    complaints = complaints_of(driver)
    driver.get("about:blank")
    driver.delete_all_cookies()
    assert complaints == []  # no script failed, and nothing broke the content security policy


def quoted(number: int) -> dict[str, object]:
    """Return a command that a worker refuses: its tokens are a text."""
    return {"type": "usage.deduct", "referenceId": f"scan-{number}", "userId": "ada", "tokens": "250"}


def drain_valid(application: Application, count: int) -> None:
    """Drain dead letters that a worker would accept now."""
    now = datetime.now(UTC)
    dead_letters = (sample_data.refused({**quoted(n), "tokens": 10}, now) for n in range(count))
    sample_data.drain(application.service(), dead_letters)


def test_operator_edits_and_replays_a_dead_letter_and_sees_the_balance(
    ann: BrowserUser, application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    workers.start()
    rabbit.request({"type": "account.open", "referenceId": "open", "userId": "ada", "tier": "free"})
    rabbit.publish_all([quoted(number) for number in range(4)])
    eventually(lambda: rabbit.depth("billing.dead") == 4)

    ann.goes_to("/")
    ann.sees("billing.payments has 1 consumer, 0 waiting, billing.usage has 1 consumer")
    ann.sees("dead letters, not drained yet Drain now 4")
    ann.clicks("Drain now")
    ann.sees("Drained 4 dead letters")
    (entry,) = application.service().activity_log(action="park").entries
    assert (entry.subject, entry.detail["letters"]) == ("billing.dead", 4)
    ann.clicks("invalid_field")  # the group
    ann.sees("Waiting 4")
    ann.clicks("Open dead letter")
    ann.sees("A worker would still refuse this body")
    number = int(ann.driver.current_url.rsplit("/", 1)[1])

    ann.clicks("Edit")
    edited = json.dumps({**quoted(0), "tokens": "many"})
    ann.types("body", edited)
    ann.clicks("Check")
    ann.sees("A worker would refuse this: invalid field at tokens")
    ann.types("body", edited.replace('"many"', "250"))
    ann.types("reason", "tokens were quoted")
    ann.clicks("Save edit")
    ann.sees("Body edited")

    ann.clicks("Dry run")
    ann.sees("Those that apply would move 250 tokens")
    assert application.service().dead_letter(number).status == "parked"

    ann.clicks("Replay…")
    ann.types("reason", "the canary of them")
    ann.clicks("Replay")
    ann.sees("finished")
    ann.sees("1 of 1 done")
    ann.sees("applied 1")
    ann.clicks(f"#{number}")
    ann.sees("resolved")
    ann.sees("Deducted 250 tokens")
    ann.clicks("ada")
    ann.sees("Available 9,750")

    ann.goes_to("/activity-log")
    ann.sees("tokens were quoted")
    ann.sees("the canary of them")


def test_failed_canary_step_stops_its_replay(
    ann: BrowserUser, application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    workers.start()
    rabbit.request({"type": "account.open", "referenceId": "open", "userId": "ada", "tier": "free"})
    now = datetime.now(UTC)
    sample_data.drain(application.service(), [sample_data.refused(quoted(n), now) for n in range(9)])

    ann.goes_to("/dead-letters")
    ann.clicks("invalid_field")
    ann.clicks("Replay…")
    ann.types("reason", "nothing was edited")
    ann.clicks("Replay")
    ann.sees("stopped")
    ann.sees("1 of 9 done")
    ann.sees("failed again 1")
    ann.sees("waiting 8")
    counts = application.service().counts()
    assert (counts.resolved, counts.discarded) == (0, 0)


def test_operator_pauses_and_resumes_a_replay(
    ann: BrowserUser, application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    workers.start()
    rabbit.request({"type": "account.open", "referenceId": "open", "userId": "ada", "tier": "free"})
    drain_valid(application, 40)

    ann.goes_to("/dead-letters/replay?code=unprocessable")
    ann.types("reason", "the fault is gone")
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
    ann.sees("40 of 40 done")  # without a click: the page follows by itself
    ann.sees("finished")
    ann.goes_to("/account?user=ada")
    ann.sees("Available 9,600")


def test_operator_undoes_a_discard(ann: BrowserUser, application: Application) -> None:
    drain_valid(application, 5)
    ann.goes_to("/dead-letters/list")
    for place in (1, 3):
        ann.driver.find_element(By.XPATH, f"(//tbody//input[@name='n'])[{place}]").click()
    ann.sees("2 selected")
    ann.clicks("Discard…")
    ann.types("reason", "tests of theirs")
    ann.clicks("Discard")
    ann.sees("Discarded 2 dead letters")
    assert application.service().counts().discarded == 2
    ann.clicks("Undo")
    ann.sees("Restored 2 dead letters")
    assert application.service().counts().parked == 5


def test_keyboard_reaches_rows_and_pages(ann: BrowserUser, application: Application) -> None:
    drain_valid(application, 3)
    ann.goes_to("/")
    ann.sees("a queue without a consumer waits until a worker runs")
    ann.presses("?")
    ann.sees("next and previous row")
    ann.presses(Keys.ESCAPE)
    ann.presses("g", "d")
    ann.sees("Failure")
    ann.presses("j", Keys.ENTER)
    ann.sees("Fingerprint")
    ann.presses("j", "j", Keys.ENTER)
    ann.sees("Dead letter 2")
    ann.presses("/")
    ann.driver.switch_to.active_element.send_keys("#3", Keys.ENTER)
    ann.sees("Dead letter 3")
    ann.goes_to("/dead-letters")
    ann.presses(Keys.TAB, Keys.ENTER)
    assert ann.driver.current_url.endswith("#main")


@pytest.fixture
def charged(application: Application) -> Application:
    """A ledger with a charge of ada, and three dead letters of hers that lack their tokens."""
    now = datetime.now(UTC)
    commands = (
        OpenAccount(reference_id="open-ada", user_id="ada", tier="free"),
        DeductUsage(reference_id="job-17", user_id="ada", tokens=70, feature="ocr"),
    )
    applied(application.engine, application.catalog, *commands, now=now)
    wrong = ({**quoted(number), "tokens": -1} for number in range(3))
    sample_data.drain(application.service(), [sample_data.refused(one, now) for one in wrong])
    return application


def test_keyboard_alone_finds_an_operation_and_reverses_it(ann: BrowserUser, charged: Application) -> None:
    ann.goes_to("/")
    ann.enters("g", "n")
    ann.skips_to_content()
    ann.tabs_to("prefix")
    ann.enters("job-")
    ann.enters("j")
    ann.sees("Deducted 70 tokens")
    ann.enters("g", "n")
    ann.skips_to_content()
    ann.tabs_to("user")
    ann.enters("ada")
    ann.skips_to_content()
    ann.tabs_to("Reverse…")
    ann.enters()
    ann.skips_to_content()
    ann.tabs_to("reason")
    ann.enters("wrong price")
    ann.sees("Reverse run 1")
    assert [run.reason for run in store.page(charged.engine, 1, None).runs] == ["wrong price"]


def test_keyboard_alone_edits_dead_letters_as_a_set_and_replays_them(
    ann: BrowserUser, charged: Application
) -> None:
    ann.goes_to("/")
    ann.enters("g", "d")
    ann.enters("j")
    ann.skips_to_content()
    ann.tabs_to("Edit all…")
    ann.enters()
    ann.skips_to_content()
    ann.tabs_to("set")
    ann.presses("tokens=5")
    ann.tabs_to("Preview")
    ann.enters()
    ann.skips_to_content()
    ann.tabs_to("reason")
    ann.enters("a negative amount")
    ann.sees("Edited 3 dead letters")
    ann.skips_to_content()
    ann.tabs_to("Replay…")
    ann.enters()
    ann.enters("amounts are mended")
    ann.sees("Replay 1")
    assert charged.service().replay(1).reason == "amounts are mended"


def test_keyboard_alone_pauses_and_resumes_a_lane_and_reads_a_report(
    ann: BrowserUser, charged: Application
) -> None:
    ann.goes_to("/")
    ann.enters("g", "w")
    ann.skips_to_content()
    ann.tabs_to("lane")
    ann.presses("usage")
    ann.tabs_to("reason")
    ann.enters("move the database")
    ann.sees("usage paused by")
    ann.skips_to_content()
    ann.tabs_to("Resume")
    ann.enters()
    ann.sees("Resumed.")
    ann.enters("g", "t")
    ann.skips_to_content()
    ann.tabs_to("Usage")
    ann.enters()
    ann.sees("Usage: used")
    log = charged.service().activity_log().entries
    assert [entry.action for entry in log[:2]] == ["lane.resume", "lane.pause"]


def test_copied_id_is_the_whole_one_without_a_permission(ann: BrowserUser, application: Application) -> None:
    long = f"{HOSTILE} {'r' * 150} é"
    opening = OpenAccount(reference_id=long, user_id="ada", tier="free")
    applied(application.engine, application.catalog, opening)
    ann.goes_to("/operations")
    ann.presses("j", "c")
    assert ann.driver.find_element(By.CSS_SELECTOR, "[data-copy-status]").text == "Copied reference."
    ann.presses("/")
    ann.driver.switch_to.active_element.send_keys(Keys.CONTROL, "v")
    field = ann.driver.find_element(By.ID, "find")
    assert field.get_attribute("value") == long
    ann.goes_to("/account?user=ada")
    ann.driver.find_element(By.CSS_SELECTOR, "[aria-label='Copy user ada']").click()
    ann.presses("/")
    ann.driver.switch_to.active_element.send_keys(Keys.CONTROL, "v")
    assert ann.driver.find_element(By.ID, "find").get_attribute("value") == "ada"


def test_operator_quiesces_a_lane_and_resumes_it(ann: BrowserUser) -> None:
    ann.goes_to("/workers")
    ann.presses("g", "w")
    ann.sees("console running")
    ann.types("reason", "move the database")
    ann.clicks("Quiesce")
    ann.sees("Running workers obey within seconds.")
    ann.sees("usage quiesced by")
    ann.goes_to("/")
    ann.sees("move the database")
    ann.clicks("Resume")
    ann.sees("Resumed.")


def test_operator_tries_a_rejected_payment_again(
    ann: BrowserUser, application: Application, rabbit: RabbitClient
) -> None:
    applied(application.engine, application.catalog, every_page.rejected_payment("pi_1"))
    ann.goes_to("/")
    ann.presses("g", "p")
    ann.sees("Payments that need somebody")
    ann.driver.find_element(By.CSS_SELECTOR, "input[name=reference]").click()
    ann.types("reason", "package added")
    ann.clicks("Try the selected again")
    ann.sees("Sent 1 payment again")
    ((properties, body),) = rabbit.take("billing.payments", 1)
    assert (properties.app_id, json.loads(body)["attempt"]) == ("billing-worker console", 2)


@pytest.mark.usefixtures("axe_in_pages")
def test_viewer_signs_in_and_gets_no_actions(
    driver: webdriver.Chrome, open_console: Callable[..., str], application: Application, tmp_path: Path
) -> None:
    people = tmp_path / "users"
    write_user(people, "vic", Role.VIEWER, PASSWORD)
    drain_valid(application, 1)
    vic = BrowserUser(driver, open_console("--users", str(people)))
    vic.goes_to("/dead-letters/1")
    vic.sees("Sign in")
    vic.types("name", "vic")
    vic.types("password", "wrong")
    vic.clicks("Sign in")
    vic.sees("Name or password is wrong")
    assert axe.findings(driver) == []
    vic.types("password", PASSWORD)
    vic.clicks("Sign in")
    vic.sees("Dead letter 1")
    vic.sees("viewer")
    for action in ("Edit", "Replay", "Discard", "Save note"):
        assert f"{action}…" not in vic.page
    vic.goes_to("/dead-letters/1/edit")
    vic.sees("Only for operators")
    driver.find_element(By.XPATH, "//button[contains(., 'Sign out')]").click()
    vic.sees("Sign in")


def sets_screen(driver: webdriver.Chrome, width: int) -> None:
    screen = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def prefers(driver: webdriver.Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture
def axe_in_pages(driver: webdriver.Chrome) -> Iterator[None]:
    """axe-core in each page; screen and colours are as before afterwards."""
    name = axe.install(driver)
    yield
    axe.remove(driver, name)
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    prefers(driver, "light")


#: Width that the page needs; beside the sidebar nothing may stand out of its part either.
NEEDED_WIDTH = """
const main = document.querySelector("main");
return Math.max(document.documentElement.scrollWidth, innerWidth + main.scrollWidth - main.clientWidth);
"""
#: A small phone, a tablet, the least width with the sidebar, and a desktop.
WIDTHS = (360, 768, 1057, 1280)


@pytest.mark.usefixtures("axe_in_pages")
def test_every_page_fits_its_screen_and_breaks_no_rule_of_axe(
    driver: webdriver.Chrome, open_console: Callable[..., str], application: Application
) -> None:
    paths = every_page.fill(application)
    user = BrowserUser(driver, open_console())
    findings = []
    for path in paths:
        prefers(driver, "light")
        user.goes_to(path)
        for width in WIDTHS:
            sets_screen(driver, width)
            wide = driver.execute_script(NEEDED_WIDTH)
            assert wide <= width, path
        findings += [f"{path}: {one}" for one in axe.findings(driver)]
        prefers(driver, "dark")
        findings += [f"{path}, dark: {one}" for one in axe.findings(driver, axe.CONTRAST)]
    assert findings == []


def test_theme_follows_the_system_until_the_user_sets_one(ann: BrowserUser) -> None:
    def background() -> str:
        script = "return getComputedStyle(document.body).backgroundColor"
        colour: str = ann.driver.execute_script(script)
        return colour

    ann.goes_to("/dead-letters")
    prefers(ann.driver, "light")
    light = background()
    prefers(ann.driver, "dark")
    dark = background()
    assert light != dark
    ann.driver.find_element(By.CSS_SELECTOR, "#theme option[value=light]").click()
    eventually(lambda: background() == light)
    ann.goes_to("/activity-log")
    assert background() == light
    prefers(ann.driver, "light")


def test_pages_work_without_javascript(ann: BrowserUser, application: Application) -> None:
    drain_valid(application, 2)
    ann.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        ann.goes_to("/dead-letters")
        ann.clicks("unprocessable")
        ann.clicks("Open dead letter")
        ann.clicks("Edit")
        text = json.dumps({**quoted(1), "tokens": 11})
        ann.types("body", text)
        ann.types("reason", "eleven")
        ann.clicks("Save edit")
        ann.sees("Body edited")
        ann.clicks("Discard…")
        ann.types("reason", "after all not")
        ann.clicks("Discard")
        ann.sees("Discarded 1 dead letter")
        ann.clicks("Undo")
        ann.sees("parked")
    finally:
        ann.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
