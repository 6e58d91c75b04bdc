"""Headless Chromium, and its user: reads pages, clicks and types."""

from collections.abc import Callable
from typing import Final

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

from tests.support.provision import browser
from tests.support.waiting import eventually

_MOST_TABS: Final = 40
#: The element with the focus has this name or text, and the focus is to be seen.
_HAS_FOCUS: Final = """
const element = document.activeElement;
const text = element.textContent.trim();
if (element.name !== arguments[0] && text !== arguments[0]) return false;
const style = getComputedStyle(element);
if (style.outlineStyle === "none") throw Error("the focus on " + arguments[0] + " can't be seen");
return true;
"""


def start_browser() -> webdriver.Chrome:
    """Start Debian's Chromium without a window; its console is logged."""
    found = browser()
    options = webdriver.ChromeOptions()
    options.binary_location = str(found.chromium)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(str(found.driver)))


class BrowserUser:
    """User of a browser, who reads pages, clicks and types. Each step waits for its page."""

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

    def tabs_to(self, name: str) -> None:
        """Press Tab until the field of this name, or the link or button with this text, has the focus."""
        for _ in range(_MOST_TABS):
            self.presses(Keys.TAB)
            if self.driver.execute_script(_HAS_FOCUS, name):
                return
        raise AssertionError(f"{_MOST_TABS} tabs don't reach {name!r} on {self.driver.current_url}")

    def enters(self, *keys: str) -> None:
        """Press keys and Enter, and wait until the page behind them is there."""
        before = self.driver.find_element(By.TAG_NAME, "html")
        self.presses(*keys, Keys.ENTER)
        eventually(lambda: _is_gone(before), patience_s=20, what=f"a page behind {keys}")

    def skips_to_content(self) -> None:
        """Pass the navigation by, as the first link of each page does."""
        self.presses(Keys.TAB, Keys.ENTER)

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
