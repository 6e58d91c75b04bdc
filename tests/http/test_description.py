"""``/openapi.json``: what it promises is what the door does."""

import json
from http import HTTPStatus
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from schemas import DeductUsage
from schemas.http import DESCRIPTION_PATH, PROBLEM_TYPE, ROUTES, RequestCode
from tests.cli.console import FilledLedger
from tests.http.conftest import Caller, Served
from tests.http.test_app import QUESTIONS
from worker.http.app import description


@pytest.fixture
def document(stranger: Caller) -> dict[str, Any]:
    """The document, as a caller without a token gets it."""
    found: dict[str, Any] = stranger.get(DESCRIPTION_PATH).get_json()
    return found


@pytest.fixture
def everything(served: Served, ledger: FilledLedger) -> Caller:
    """Caller with all scopes, on a ledger with the account of ada."""
    ledger.open("ada")
    ledger.apply(DeductUsage(reference_id="job-1", user_id="ada", tokens=1_500, feature="ocr"))
    return served.caller(served.secrets["all"])


def require_valid(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """Fail where ``value`` is not what ``schema`` of the document describes."""
    whole = {**schema, "components": document["components"]}
    assert [error.message for error in Draft202012Validator(whole).iter_errors(value)] == []


def test_description_is_the_packaged_document(stranger: Caller) -> None:
    response = stranger.get(DESCRIPTION_PATH)
    document = json.loads(response.data)
    assert document["openapi"].startswith("3.1")
    assert document["paths"].keys() == {*ROUTES, DESCRIPTION_PATH}
    again = stranger.get(DESCRIPTION_PATH, 304, headers={"If-None-Match": response.headers["ETag"]})
    assert again.data == b""


def test_description_that_is_not_packaged_is_not_found(
    stranger: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.http.app.description", lambda: None)
    stranger.problem(DESCRIPTION_PATH, 404)
    monkeypatch.undo()
    assert description() is not None


@pytest.mark.parametrize("path", ROUTES)
def test_answer_is_as_described(everything: Caller, document: dict[str, Any], path: str) -> None:
    answer = everything.get(path + QUESTIONS[path])
    described = document["paths"][path]["get"]["responses"]["200"]["content"][answer.mimetype]
    require_valid(answer.get_json(), described["schema"], document)


@pytest.mark.parametrize("path", ROUTES)
def test_described_parameters_are_those_that_are_taken(
    everything: Caller, document: dict[str, Any], path: str
) -> None:
    parameters = document["paths"][path]["get"]["parameters"]
    described = {one["name"] for one in parameters if one["in"] == "query"}
    refused = everything.problem(f"{path}?colour=red", 400)
    known = refused["detail"].partition("known are ")[2].rstrip(".").split(", ")
    assert described == set(known) - {"type"}


@pytest.mark.parametrize("path", ROUTES)
def test_problems_are_as_described(
    everything: Caller, stranger: Caller, document: dict[str, Any], path: str
) -> None:
    for problem in (everything.problem(f"{path}?colour=red", 400), stranger.problem(path, 401)):
        described = document["paths"][path]["get"]["responses"][str(problem["status"])]
        name = described["$ref"].rpartition("/")[2]
        schema = document["components"]["responses"][name]["content"][PROBLEM_TYPE]["schema"]
        require_valid(problem, schema, document)


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/v1/nothing", "GET", 404, RequestCode.NOT_FOUND),
        ("/v1/balance", "POST", 405, RequestCode.METHOD_NOT_ALLOWED),
        ("/v1/balance", "GET", 401, RequestCode.UNAUTHENTICATED),
    ],
)
def test_problem_of_a_request_is_as_described(
    stranger: Caller, document: dict[str, Any], path: str, method: str, status: int, code: RequestCode
) -> None:
    problem = stranger.problem(path, status, method=method)
    assert problem["code"] == code
    described = document["components"]["responses"][HTTPStatus(status).phrase.replace(" ", "")]
    assert f"`{code}`" in described["description"]
    require_valid(problem, described["content"][PROBLEM_TYPE]["schema"], document)


@pytest.mark.parametrize("path", ROUTES)
def test_described_scope_is_the_one_that_is_asked_for(document: dict[str, Any], path: str) -> None:
    assert document["paths"][path]["get"]["security"] == [{"bearer": [ROUTES[path].scope.value]}]
