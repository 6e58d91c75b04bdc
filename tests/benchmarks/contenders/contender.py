"""Definition of a contender: its command, its queue and its settings."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

import pika

from schemas import DeductUsage
from tests.benchmarks.contenders.setup import Setup
from tests.benchmarks.sandbox import ProcessCommand, Progress, Sandbox
from worker.broker import Outgoing


@dataclass(frozen=True, slots=True)
class Contender:
    """Contender: its command, its queue and its settings.

    ``arguments`` are those of ``python -m``, ``environment`` is what it reads beside ``Setup``; in both
    ``{processes}``, ``{threads}`` and ``{prefetch}`` stand for the numbers.

    One that is forking is started once, and sees to its processes itself. ``encode`` writes a deduction for a
    queue in the contender's message format. ``kept`` says in words what its other settings are. One that
    ``keeps_ledger`` leaves a ledger that can be audited.
    """

    name: str
    queue: str
    packages: tuple[str, ...]
    processes: int
    prefetch: int
    arguments: tuple[str, ...]
    kept: str
    encode: Callable[[DeductUsage, str], Outgoing]
    threads: int = 1
    is_forking: bool = False
    keeps_ledger: bool = True
    queue_arguments: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of its packages by name. Raises PackageNotFoundError without the extra."""
        return {package: version(package) for package in self.packages}

    def settings(self) -> str:
        """Return its settings in one line; they are the fastest of those tried."""
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        threads = f" of {self.threads} threads" if self.threads > 1 else ""
        return f"{processes}{threads}, prefetch {self.prefetch}, {self.kept}"

    def prefill(self, sandbox: Sandbox, deductions: Iterable[DeductUsage], progress: Progress) -> int:
        """Declare its queue on ``sandbox`` and fill it; return the number of messages."""
        with pika.BlockingConnection(pika.URLParameters(sandbox.broker_url)) as connection:
            arguments = {"x-queue-type": "quorum", **self.queue_arguments}
            connection.channel().queue_declare(self.queue, durable=True, arguments=arguments)
        return sandbox.prefill((self.encode(command, self.queue) for command in deductions), progress)

    def commands(self, sandbox: Sandbox) -> list[ProcessCommand]:
        """Return the processes to start, with the variables besides ours."""
        numbers = {"processes": self.processes, "threads": self.threads, "prefetch": self.prefetch}
        arguments = [argument.format_map(numbers) for argument in self.arguments]
        environment = {name: value.format_map(numbers) for name, value in self.environment.items()}
        setup = Setup(sandbox.broker_url, sandbox.database_url, self.queue, self.threads, self.prefetch)
        command = [sys.executable, "-m", *arguments], setup.to_environment() | environment
        return [command] * (1 if self.is_forking else self.processes)
