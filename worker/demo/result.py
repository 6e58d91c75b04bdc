"""Result of a demo, and its problems."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.demo.collector import Collector
from worker.demo.scenario import DemoMessage
from worker.demo.stored_notices import StoredNotice
from worker.ledger.audit import AuditReport


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Collected messages, audit, stored notices, exit codes, and the seconds from first to last reply."""

    collector: Collector
    report: AuditReport
    stored: Sequence[StoredNotice]
    exit_codes: Mapping[str, int | None]
    seconds: float

    def problems(self) -> list[str]:
        """Return the failures of the demo, one line each; none after a success."""
        collector = self.collector
        lines = [f"{_label(*item)}: neither a reply nor a dead letter" for item in collector.missing()]
        lines += [f"{_label(*item)}: its dead letter is missing" for item in collector.without_dead_letter()]
        lines += [f"{type_} of {reference}: no queue got the notice" for reference, type_ in self.lost()]
        lines += [f"the {name} ended with {code}" for name, code in self.exit_codes.items() if code != 0]
        if not self.report.is_clean:
            lines.append("the audit does not hold")
        return lines

    def lost(self) -> list[StoredNotice]:
        """Return the notices that are stored with their outcomes and reached no queue."""
        received = [(notice.reference_id, str(notice.type)) for notice in self.collector.notices.values()]
        return sorted((Counter(self.stored) - Counter(received)).elements())


def _label(correlation_id: str, message: DemoMessage) -> str:
    reference = "" if message.reference_id is None else f" {message.reference_id}"
    return f"{message.kind}{reference} (correlation id {correlation_id})"
