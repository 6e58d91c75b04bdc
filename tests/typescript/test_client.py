"""The TypeScript client: its types, its own tests with a real worker, and what its package holds."""

import json
import re
import tarfile
from pathlib import Path

import pytest

from tests.support.load_scenario import consumers_of
from tests.support.pages import page
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.typescript.npm_package import FOLDER, run

pytestmark = pytest.mark.usefixtures("compiled")

SERVED = ("billing.payments", "billing.usage", "billing.bulk", "billing.queries")
TESTS = sorted(path.stem for path in (FOLDER / "test").glob("*.test.ts"))


def test_types_and_methods_are_those_of_the_contract() -> None:
    run("node", "scripts/generate.mjs", "--check")


def test_sources_type_check_strictly() -> None:
    every, tests = (
        json.loads((FOLDER / name).read_text()) for name in ("tsconfig.json", "tsconfig.test.json")
    )
    assert every["compilerOptions"]["strict"] is True
    assert every["include"] == ["src", "test", "examples", "benchmark"]
    assert tests["extends"] == "./tsconfig.json"  # `compiled` has checked all of it: tsc fails on an error
    assert tests.keys() == {"extends", "compilerOptions"}


def test_sources_are_formatted() -> None:
    run("node", "node_modules/prettier/bin/prettier.cjs", "--check", ".")


@pytest.mark.timeout(240)
def test_client_passes_the_tests_of_nodes_runner(
    broker_url: str,
    vhost_without_worker: str,
    producer_url: str,
    certificates: str,
    rabbit: RabbitClient,
    workers: WorkerProcesses,
) -> None:
    workers.start("--readers", "1")
    eventually(lambda: all(consumers_of(rabbit, queue) for queue in SERVED), what="worker and reader")
    output = run(
        "node",
        "--test",
        "--test-timeout=150000",
        "--test-concurrency=6",  # most of it waits
        "--test-reporter=tap",
        *(f"build/test/{name}.js" for name in TESTS),
        BILLING_TEST_WORKER_URL=broker_url,
        BILLING_TEST_PRODUCER_URL=producer_url,
        BILLING_TEST_BARE_URL=vhost_without_worker,
        BILLING_TEST_CERTIFICATES=certificates,
    )
    assert re.search(r"^# fail 0$", output, re.MULTILINE)
    assert re.search(r"^# skipped 0$", output, re.MULTILINE)


def test_programs_of_the_page_type_check(tmp_path_factory: pytest.TempPathFactory) -> None:
    programs = re.findall(r"```ts\n(.*?)```", page("schemas/typescript/README.md"), re.DOTALL)
    assert programs
    folder = FOLDER / "build" / "page"
    folder.mkdir(exist_ok=True)
    for number, program in enumerate(programs):
        (folder / f"program-{number}.ts").write_text(program, encoding="utf-8")
    options = {
        "extends": "../../tsconfig.json",
        "compilerOptions": {"noEmit": True},
        "include": ["*.ts"],
        "exclude": [],
    }
    (folder / "tsconfig.json").write_text(json.dumps(options), encoding="utf-8")
    run("tsc", "-p", str(folder))


def test_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (FOLDER / "package-lock.json").read_text(encoding="utf-8")


def test_package_holds_what_a_team_needs_and_works_outside_of_here(tmp_path: Path) -> None:
    (packed,) = json.loads(run("npm", "pack", "--ignore-scripts", "--json", f"--pack-destination={tmp_path}"))
    modules = sorted(str(path.relative_to(FOLDER / "src"))[:-3] for path in (FOLDER / "src").rglob("*.ts"))
    examples = {f"examples/{path.name}" for path in (FOLDER / "examples").glob("*.ts")}
    expected = {f"dist/{module}{suffix}" for module in modules for suffix in (".js", ".d.ts")}
    assert {entry["path"] for entry in packed["files"]} == expected | examples | {"README.md", "package.json"}

    app = tmp_path / "app"
    with tarfile.open(tmp_path / packed["filename"]) as archive:
        archive.extractall(app / "node_modules" / "@billing-worker", filter="data")
    (app / "node_modules" / "@billing-worker" / "package").rename(
        app / "node_modules" / "@billing-worker" / "client"
    )
    for name in ("amqplib", "lossless-json", "@types"):
        (app / "node_modules" / name).symlink_to(FOLDER / "node_modules" / name)
    (app / "node_modules" / "undici-types").symlink_to(FOLDER / "node_modules" / "undici-types")
    (app / "app.mts").write_text(PROGRAM, encoding="utf-8")
    run(
        "tsc",
        "--strict",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--types",
        "node",
        "app.mts",
        folder=app,
    )
    assert run("node", "app.mjs", folder=app) == "8500\n"


PROGRAM = """
import { FakeBillingClient, TokenService } from "@billing-worker/client";

const billing = new FakeBillingClient();
await billing.openAccount({ referenceId: "open-1", userId: "ada", tier: "free" });
const service = new TokenService(billing);
const { currentBalance }: { currentBalance: number } = await service.deductTokens({
  userId: "ada",
  amount: 1500,
  description: "a page",
});
console.log(currentBalance);
"""
