"""Routes, access, problems and health of the HTTP door, without a server."""

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from schemas import DeductUsage, QueryHistory
from schemas.answers import BalanceAnswer
from schemas.http import ROUTES, TokenScope
from tests.cli.console import FilledLedger
from tests.http.conftest import Caller, Served
from worker.bootstrap import utc_now
from worker.errors import LedgerUnavailableError
from worker.http.app import TARGET_MAX
from worker.http.tokens import add_token, remove_token

#: A question that each route answers on an empty ledger or a problem of the ledger's.
QUESTIONS = {
    "/v1/balance": "?userId=ada",
    "/v1/afford": "?userId=ada&tokens=5",
    "/v1/history": "?userId=ada",
    "/v1/usage": "?userId=ada",
    "/v1/stats": "",
    "/v1/operation": "?referenceId=job-1",
    "/v1/catalog": "",
}

STRANGE_IDS = ["a/b", "a?b=c&d", "100%", "%00", "a b", "a+b", "😀", "株式会社", "..", "a;b", "#top"]


@pytest.fixture
def paying_ada(ledger: FilledLedger) -> None:
    """Account of ada on the free tier, with one usage of 1,500 tokens."""
    ledger.open("ada")
    ledger.apply(DeductUsage(reference_id="job-1", user_id="ada", tokens=1_500, feature="ocr"))


# -- answers ----------------------------------------------------------------------------------------------


def test_every_query_has_a_question_here() -> None:
    assert QUESTIONS.keys() == ROUTES.keys()


@pytest.mark.usefixtures("paying_ada")
@pytest.mark.parametrize("path", ROUTES)
def test_route_gives_the_answer_of_its_query(served: Served, path: str) -> None:
    response = served.caller(served.secrets["all"]).get(path + QUESTIONS[path])
    assert response.mimetype == "application/json"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    answer = ROUTES[path].answer.model_validate_json(response.data)
    assert response.get_json()["type"] == f"answer.{path.removeprefix('/v1/')}"
    assert answer.schema_version


@pytest.mark.usefixtures("paying_ada")
def test_balance_is_that_of_the_ledger(app: Caller) -> None:
    answer = BalanceAnswer.model_validate_json(app.get("/v1/balance?userId=ada").data)
    assert (answer.user_id, answer.balance, answer.totals.used) == ("ada", 8_500, 1_500)


@pytest.mark.parametrize("user_id", STRANGE_IDS)
def test_id_may_hold_any_character(app: Caller, ledger: FilledLedger, user_id: str) -> None:
    ledger.open(user_id)
    answer = app.get(f"/v1/balance?userId={quote(user_id, safe='')}").get_json()
    assert answer["userId"] == user_id


def test_parameters_reach_the_query(app: Caller, served: Served, ledger: FilledLedger) -> None:
    ledger.open("ada")
    app.get("/v1/history?userId=ada&limit=7&status=all&transactionType=usage.deduct")
    (asked,) = served.service.asked
    assert asked == QueryHistory(user_id="ada", limit=7, status="all", transaction_type="usage.deduct")


def test_pages_follow_each_other_by_the_cursor(app: Caller, ledger: FilledLedger) -> None:
    ledger.open("ada")
    ledger.apply(*(DeductUsage(reference_id=f"job-{n}", user_id="ada", tokens=1) for n in range(5)))
    seen: list[int] = []
    path = "/v1/history?userId=ada&limit=2"
    while True:
        page = app.get(path).get_json()
        seen += [one["sequence"] for one in page["transactions"]]
        if not page["hasMore"]:
            break
        path = f"/v1/history?userId=ada&limit=2&cursor={quote(page['nextCursor'], safe='')}"
    assert seen == [6, 5, 4, 3, 2, 1]


@pytest.mark.usefixtures("paying_ada")
def test_operation_is_its_stored_reply_or_unknown(app: Caller) -> None:
    known = app.get("/v1/operation?referenceId=job-1").get_json()
    assert (known["isKnown"], known["reply"]["code"]) == (True, "tokens_deducted")
    unknown = app.get("/v1/operation?referenceId=job-2").get_json()
    assert unknown["isKnown"] is False
    assert "reply" not in unknown


@pytest.mark.usefixtures("paying_ada")
def test_head_has_the_headers_of_get_and_no_body(app: Caller) -> None:
    got, headed = (app.get("/v1/balance?userId=ada", method=method) for method in ("GET", "HEAD"))
    assert headed.data == b""
    assert (headed.headers["ETag"], headed.mimetype) == (got.headers["ETag"], got.mimetype)


# -- problems of queries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "field", "way_out"),
    [
        ("/v1/balance", "userId", "is missing"),
        ("/v1/balance?userId=ada&colour=red", "colour", "known are"),
        ("/v1/balance?userid=ada", "userid", "did you mean 'userId'?"),
        ("/v1/balance?userId=ada&userId=bob", "userId", "send it once"),
        ("/v1/balance?userId=%00", "userId", "characters that are not taken"),
        ("/v1/balance?userId=%ff", "userId", "UTF-8"),
        ("/v1/balance?userId=100%", "userId", "write %25"),
        ("/v1/balance?userId=ada&at=2026-11-26T10:00:00+01:00", "at", "write %2B"),
        ("/v1/history?userId=ada&limit=ten", "limit", "whole number"),
        ("/v1/history?userId=ada&limit=1000000000", "limit", "1000"),
        ("/v1/history?userId=ada&offset=99999999999999999999", "offset", "9223372036854775807"),
        ("/v1/usage?userId=ada&days=1000000", "days", "366"),
        ("/v1/afford?userId=ada&tokens=1e9", "tokens", "whole number"),
        ("/v1/stats?type=query.balance", "type", "the path says it"),
    ],
)
def test_bad_parameter_is_named_with_the_way_out(
    served: Served, target: str, field: str, way_out: str
) -> None:
    found = served.caller(served.secrets["all"]).problem(target, 400)
    assert (found["code"], found["field"]) == ("malformed", field)
    assert way_out in found["detail"]
    assert served.service.asked == []


@pytest.mark.usefixtures("paying_ada")
@pytest.mark.parametrize(
    ("target", "field", "way_out"),
    [
        ("/v1/usage?userId=ada&timezone=Mars/Olympus", "timezone", "Mars/Olympus"),
        ("/v1/history?userId=ada&cursor=forged", "cursor", "cursor"),
        ("/v1/history?userId=ada&cursor=bm9uc2Vuc2U", "cursor", "cursor"),
    ],
)
def test_parameter_that_only_the_ledger_can_judge_is_named(
    app: Caller, target: str, field: str, way_out: str
) -> None:
    found = app.problem(target, 400)
    assert (found["code"], found["field"]) == ("malformed", field)
    assert way_out in found["detail"]


def test_too_many_days_are_refused(app: Caller) -> None:
    found = app.problem("/v1/usage?userId=ada&from=1970-01-01&to=2199-12-31", 400)
    assert "from 1 to 366" in found["detail"]


def test_unknown_account_is_not_found(app: Caller) -> None:
    found = app.problem("/v1/balance?userId=nobody", 404)
    assert found["code"] == "account_not_found"


@pytest.mark.usefixtures("paying_ada")
def test_sequence_that_is_not_there_yet_is_a_conflict_to_be_asked_again(app: Caller) -> None:
    response = app.get("/v1/balance?userId=ada&minSequence=99", 409)
    assert response.get_json()["code"] == "sequence_not_reached"
    assert response.headers["Retry-After"] == "1"
    app.get("/v1/balance?userId=ada&minSequence=2")


def test_outage_is_a_problem_without_the_names_of_servers(
    app: Caller, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        raise LedgerUnavailableError("no answer from db-7.internal:5432")

    served.service.before = away
    with caplog.at_level(logging.ERROR):
        responses = [app.get("/v1/balance?userId=ada", 503) for _ in range(3)]
    found = responses[0].get_json()
    assert (found["code"], found["detail"]) == (
        "unavailable",
        "The ledger's database does not answer; ask again.",
    )
    assert responses[0].headers["Retry-After"] == "2"
    assert [record.getMessage() for record in caplog.records] == [
        "no answer from db-7.internal:5432: requests are told so until it is back"
    ]
    served.service.before = lambda: None
    app.get("/v1/operation?referenceId=x")


def test_fault_of_ours_is_logged_and_shows_nothing(
    app: Caller, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    def fault() -> None:
        raise ZeroDivisionError("secret detail")

    served.service.before = fault
    found = app.problem("/v1/balance?userId=ada", 500)
    assert found["code"] == "unprocessable"
    assert "secret" not in found["detail"]
    (record,) = caplog.records
    assert record.getMessage() == "/v1/balance met a fault"
    assert record.exc_info is not None


# -- problems of requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/balances", "/v1/balance/", "/v2/balance", "//v1/balance"])
def test_unknown_path_is_not_found_and_names_the_known_ones(app: Caller, path: str) -> None:
    found = app.problem(path, 404)
    assert found["code"] == "not_found"
    assert "/v1/balance" in found["detail"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_other_methods_are_refused(app: Caller, method: str) -> None:
    response = app.get("/v1/balance?userId=ada", 405, method=method)
    assert response.get_json()["code"] == "method_not_allowed"
    assert response.headers["Allow"] == "GET, HEAD"


def test_longest_query_fits_and_a_longer_query_string_is_refused(app: Caller) -> None:
    longest = {
        "userId": "😀" * 200,
        "cursor": "😀" * 200,
        "transactionType": "😀" * 64,
        "feature": "😀" * 64,
    }
    target = "/v1/history?" + "&".join(f"{name}={quote(value)}" for name, value in longest.items())
    assert app.problem(target, 404)["code"] == "account_not_found"
    assert app.problem(f"/v1/balance?userId={'x' * TARGET_MAX}", 414)["code"] == "malformed"


# -- access -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ROUTES)
def test_request_without_a_token_is_unauthenticated(stranger: Caller, path: str) -> None:
    response = stranger.get(path + QUESTIONS[path], 401)
    assert response.get_json()["code"] == "unauthenticated"
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="billing-worker"'


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic YWRhOmFkYQ==",
        "bwt_x",
        "Bearer é",
        "Bearer a b",
        "Bearer a, b",
    ],
)
def test_other_authorization_is_an_invalid_token(stranger: Caller, authorization: str) -> None:
    headers = {"Authorization": authorization}
    response = stranger.get("/v1/balance?userId=ada", 401, headers=headers)
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


def test_scheme_may_be_written_in_any_case(served: Served, stranger: Caller) -> None:
    headers = {"Authorization": f"bearer {served.secrets['app']}"}
    stranger.get("/v1/catalog", headers=headers)


@pytest.mark.parametrize("path", ROUTES)
def test_token_opens_its_scope_alone(app: Caller, reports: Caller, path: str) -> None:
    other, scope = (app, "stats") if ROUTES[path].scope is TokenScope.STATS else (reports, "accounts")
    response = other.get(path + QUESTIONS[path], 403)
    found = response.get_json()
    assert found["code"] == "not_allowed"
    assert f"this needs {scope}" in found["detail"]
    assert f'error="insufficient_scope", scope="{scope}"' in response.headers["WWW-Authenticate"]


def test_access_is_judged_before_the_parameters(stranger: Caller) -> None:
    stranger.problem("/v1/balance?colour=red", 401)


def test_token_in_the_query_string_opens_nothing(served: Served, stranger: Caller) -> None:
    stranger.problem(f"/v1/catalog?access_token={served.secrets['app']}", 401)


def test_removed_token_opens_nothing_any_more(app: Caller, served: Served) -> None:
    app.get("/v1/catalog")
    remove_token(served.tokens_file, "app")
    app.problem("/v1/catalog", 401)


def test_added_token_opens_at_once(served: Served) -> None:
    secret = add_token(served.tokens_file, "later", [TokenScope.ACCOUNTS], utc_now())
    served.caller(secret).get("/v1/catalog")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("no JSON\n")])
def test_unusable_file_of_tokens_lets_nobody_in_and_is_logged(
    app: Caller, served: Served, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(served.tokens_file)
    for _ in range(3):
        assert app.problem("/v1/catalog", 503)["code"] == "unavailable"
    (record,) = caplog.records
    assert str(served.tokens_file) in record.getMessage()


def test_log_has_no_token_no_user_and_no_query_string(
    app: Caller, served: Served, stranger: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        app.get("/v1/balance?userId=secret-user", 404)
        stranger.get("/v1/balance?userId=secret-user", 401, headers={"Authorization": "Bearer bwt_wrong"})
    text = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("worker.http")
    )
    assert "GET /v1/balance 404" in text
    assert "secret-user" not in text
    assert "bwt_" not in text
    assert served.secrets["app"] not in text


# -- health, description, metrics -------------------------------------------------------------------------


def test_process_lives_while_the_ledger_is_away(stranger: Caller, served: Served) -> None:
    def away() -> None:
        raise LedgerUnavailableError("no answer")

    served.service.before = away
    assert stranger.get("/healthz").get_json() == {"state": "live"}
    unready = stranger.get("/readyz", 503)
    assert unready.get_json() == {"state": "the ledger doesn't answer"}
    assert unready.headers["Cache-Control"] == "no-store"


def test_readiness_is_asked_of_the_ledger_once_a_second_at_most(stranger: Caller, served: Served) -> None:
    for _ in range(20):
        assert stranger.get("/readyz").get_json() == {"state": "ready"}
    assert len(served.service.asked) <= 2


def test_stopping_server_is_not_ready(stranger: Caller, served: Served) -> None:
    served.stopping[0] = True
    assert stranger.get("/readyz", 503).get_json() == {"state": "stopping"}


def test_requests_are_counted_by_route_and_status(app: Caller, served: Served) -> None:
    app.get("/v1/catalog")
    app.get("/v1/balance?userId=nobody", 404)
    app.get("/v1/balance?colour=red", 400)
    app.get("/nowhere/a-user-id", 404)
    counts = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for metric in served.application.metrics.http_requests.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    assert counts == {
        ("/v1/catalog", "200"): 1,
        ("/v1/balance", "404"): 1,
        ("/v1/balance", "400"): 1,
        ("other", "404"): 1,
    }
