"""Parts of the pages: bodies, charts, formats, watched values, query parameters."""

import threading
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from tests.console.furnishing import HOSTILE
from tests.support.waiting import eventually
from worker.console.asking import DeadLetterSet, filter_in, filter_pairs
from worker.console.bodies import from_form, hex_dump, readable
from worker.console.charts import Bar, round_up, share_bar, stacked_bars
from worker.console.formats import ago, compact, lasting, moment, shortened, visible
from worker.console.security import own_path
from worker.console.watching import TimedValue, Unknown, Watched
from worker.deadletters.body_text import editable
from worker.deadletters.models import DeadLetterStatus
from worker.errors import BrokerUnavailableError, QueryError
from worker.messages.dead_letters import EPOCH

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)

# -- bodies -----------------------------------------------------------------------------------------------


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_editable_body_comes_back_from_a_form_unchanged(body: bytes) -> None:
    text = editable(body)
    if text is None:
        return
    sent = text.replace("\n", "\r\n")  # as every browser does
    back = from_form(sent)
    assert editable(back) == text
    assert back == body or readable(body).kind == "json"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "empty"),
        (b'{"a": 1}', "json"),
        (b'{"a": 1, "a": 2}', "text"),
        (b"1e2", "text"),
        (b"hello", "text"),
        (b"\x00" * 100, "hex"),
        ("\u202eevil".encode(), "hex"),
        (b"\xff", "hex"),
        (b'{"a":' * 5_000 + b"1", "text"),
        (b"[" * 100 + b"1," * 50_000 + b"1" + b"]" * 100, "text"),  # formatted, it has 20 million spaces
        (b"-0", "text"),
        (b'\xef\xbb\xbf{"a": 1}', "hex"),  # a worker refuses it for its invisible byte order mark
        ('{"a": 1}'.encode("utf-16"), "hex"),
    ],
)
def test_a_body_is_shown_in_the_form_that_hides_nothing(body: bytes, kind: str) -> None:
    assert readable(body).kind == kind


def test_lines_of_a_dump_that_repeat_are_told_by_a_star() -> None:
    shown = hex_dump(bytes(64) + b"end").splitlines()
    assert len(shown) == 3
    assert shown[1] == "*"
    assert shown[2].startswith("00000040  65 6e 64")


def test_a_large_body_is_cut_and_says_so() -> None:
    shown = readable(b"x" * 200_000)
    assert shown.omitted == 200_000 - 64 * 1024
    assert readable(bytes(256 * 1024)).omitted == 252 * 1024


# -- charts -----------------------------------------------------------------------------------------------


def test_a_chart_is_well_formed_whatever_its_words_are() -> None:
    bars = [Bar(HOSTILE, HOSTILE, (3, 1)), Bar("b", "b", (0, 0))]
    chart = stacked_bars(bars, (HOSTILE, "x"), title=HOSTILE, description=HOSTILE)
    svg = ElementTree.fromstring(str(chart.svg))  # noqa: S314 - our own
    assert svg.attrib["role"] == "img"
    assert HOSTILE in svg.attrib["aria-label"]
    heights = [float(rect.attrib["height"]) for rect in svg.iter("rect") if rect.attrib["class"] != "hit"]
    assert heights == [150.0, 50.0]  # of 200, which are 4


def test_an_empty_chart_says_so() -> None:
    assert stacked_bars([Bar("a", "a", (0,))], ("x",), title="t", description="d").is_empty
    assert stacked_bars([], ("x",), title="t", description="d").is_empty


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 0), (1, 1), (3, 4), (5, 6), (7, 8), (9, 10), (10, 10), (11, 20), (999, 1000), (2001, 4000)],
)
def test_an_axis_ends_with_a_round_number(value: int, top: int) -> None:
    assert round_up(value) == top


def test_a_bar_of_shares_has_the_parts_in_proportion() -> None:
    svg = ElementTree.fromstring(str(share_bar([("good", 3), ("none", 0), ("bad", 1)], "t")))  # noqa: S314
    assert [(r.attrib["class"], r.attrib["width"]) for r in svg.iter("rect")] == [
        ("good", "750.00"),
        ("bad", "250.00"),
    ]
    assert share_bar([("good", 0)], "t") == ""


# -- formats ----------------------------------------------------------------------------------------------


def test_invisible_characters_are_spelled_out() -> None:
    assert visible("a\u202eb\x00\x1b[0m\tc\nd") == "a\\u202eb\\x00\\x1b[0m\tc\nd"
    assert shortened("a\n b" + "c" * 200, 10) == "a bcccccc…"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (600, "10 min"), (90_000, "1 d 1 h")]
)
def test_a_length_of_time_is_in_its_largest_units(seconds: int, text: str) -> None:
    assert lasting(timedelta(seconds=seconds)) == text


def test_a_time_to_come_is_told_apart_from_one_that_was() -> None:
    assert ">in 1 h 30 min<" in ago(NOW + timedelta(minutes=90), NOW)
    assert ">1 h 30 min ago<" in ago(NOW - timedelta(minutes=90), NOW)
    assert "not known" in ago(None, NOW)


def test_a_time_that_a_dead_letter_came_without_is_not_known() -> None:
    assert "not known" in ago(EPOCH, NOW)
    assert "not known" in moment(EPOCH)


def test_numbers_on_an_axis_are_short() -> None:
    assert [compact(value) for value in (7, 1_200, 30_000, 4_500_000)] == ["7", "1.2k", "30k", "4.5M"]


# -- watched values ---------------------------------------------------------------------------------------


def watched(ask: object, *, keep_s: float = 60, wait_s: float = 5) -> Watched[int]:
    return Watched(ask, what="asking", keep_s=keep_s, wait_s=wait_s, clock=lambda: NOW)  # type: ignore[arg-type]


def test_an_answer_is_kept_for_its_time() -> None:
    asked = []

    def ask() -> int:
        asked.append(1)
        return len(asked)

    kept = watched(ask)
    assert [kept.get(), kept.get()] == [TimedValue(1, NOW), TimedValue(1, NOW)]
    fresh = watched(ask, keep_s=0)
    assert fresh.get() == TimedValue(2, NOW)
    eventually(lambda: fresh.get() == TimedValue(3, NOW))


def test_value_of_an_unavailable_server_is_unknown_with_the_reason() -> None:
    def ask() -> int:
        raise BrokerUnavailableError("the broker is not available")

    assert watched(ask).get() == Unknown("the broker is not available")


def test_a_fault_in_asking_is_unknown_as_well() -> None:
    def ask() -> int:
        raise ZeroDivisionError

    assert watched(ask).get() == Unknown("asking failed: ZeroDivisionError")


def test_stale_value_is_served_while_a_refresh_runs() -> None:
    go, asked = threading.Event(), []

    def ask() -> int:
        asked.append(1)
        if len(asked) > 1:
            go.wait(30)
        return len(asked)

    totals = Watched(ask, what="asking", keep_s=0, wait_s=30, clock=lambda: NOW, is_old_fine=True)
    assert [totals.get(), totals.get()] == [TimedValue(1, NOW), TimedValue(1, NOW)]
    go.set()
    eventually(lambda: totals.get() != TimedValue(1, NOW))


def test_no_page_waits_for_what_takes_long_and_nobody_asks_twice() -> None:
    go, asked = threading.Event(), []

    def ask() -> int:
        asked.append(1)
        go.wait(30)
        return 7

    slow = watched(ask, wait_s=0.01)
    answers = [slow.get() for _ in range(3)]
    assert all(isinstance(answer, Unknown) for answer in answers)
    go.set()
    assert watched(ask).get() == TimedValue(7, NOW)
    assert len(asked) == 2


# -- query parameters -------------------------------------------------------------------------------------


def test_a_set_of_dead_letters_is_the_same_after_its_way_through_a_url() -> None:
    for pairs in (
        [("n", "1"), ("n", "5")],
        [("status", "parked"), ("reason", HOSTILE), ("user", "a&b=c"), ("since", "2026-11-22T10:15:00")],
        [("status", "all"), ("text", "ü")],
        [("since", "2026-11-22T10:15:00.25"), ("until", "0999-01-01T00:00")],
    ):
        chosen = DeadLetterSet.read(MultiDict(pairs))
        assert DeadLetterSet.read(MultiDict(chosen.pairs)) == chosen


def test_a_filter_is_the_same_after_its_way_through_a_form() -> None:
    chosen = filter_in(MultiDict({"until": "2026-11-22T10:15:00+01:00", "group": "abcd"}))
    assert chosen.until == datetime(2026, 11, 22, 9, 15, tzinfo=UTC)
    assert filter_in(MultiDict(filter_pairs(chosen))) == chosen


def test_action_never_reaches_beyond_the_filter() -> None:
    chosen = DeadLetterSet.read(MultiDict([("status", "parked"), ("status", "resolved"), ("type", "t")]))
    assert chosen.only(DeadLetterStatus.PARKED).pairs == [("status", "parked"), ("type", "t")]
    with pytest.raises(QueryError, match="the filter finds those that are resolved"):
        DeadLetterSet.read(MultiDict([("status", "resolved")])).only(DeadLetterStatus.PARKED)


@pytest.mark.parametrize("target", ["/", "/letters?x=1", "/a#b"])
def test_a_path_of_ours_is_one(target: str) -> None:
    assert own_path(target) == target


@pytest.mark.parametrize("target", ["", None, "//x", "/\\x", "http://x", "x", "/a\\b", "/\t/x", "/a\nb"])
def test_path_that_leads_elsewhere_is_refused(target: str | None) -> None:
    assert own_path(target) is None
