"""Schedule of a demo day: messages by phase, those of the day in order of their time."""

from datetime import datetime

from schemas import Message, UsageBatch
from worker.demo.scenario import DemoMessage, Phase, message_of


class Schedule:
    """Messages of the day, the evening and the night, collected in any order."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self.by_day: list[tuple[datetime, DemoMessage]] = []
        self._evening: list[DemoMessage] = []
        self._night: list[DemoMessage] = []
        self._expired_holds: set[str] = set()

    def __len__(self) -> int:
        return len(self.by_day) + len(self._evening) + len(self._night)

    def add_by_day(self, kind: str, content: Message) -> None:
        """Add a message at the time of its usage or payment."""
        at = content.items[0].occurred_at if isinstance(content, UsageBatch) else content.occurred_at
        self.place_by_day(at or self._now, message_of(kind, content))

    def place_by_day(self, at: datetime, message: DemoMessage) -> None:
        """Add an encoded message at this time of the day."""
        self.by_day.append((at, message))

    def add_in_the_evening(self, kind: str, content: Message) -> None:
        """Add a message that needs a result of the day."""
        self._evening.append(message_of(kind, content))

    def place_in_the_evening(self, message: DemoMessage) -> None:
        """Add an encoded message to the evening."""
        self._evening.append(message)

    def add_at_night(self, kind: str, content: Message) -> None:
        """Add a message that needs a result of the evening."""
        self._night.append(message_of(kind, content))

    def expire_before_night(self, hold: str) -> None:
        """Let the night begin after this hold has expired."""
        self._expired_holds.add(hold)

    def phases(self) -> tuple[Phase, ...]:
        """Return the day, the evening and the night."""
        day = sorted(self.by_day, key=lambda item: item[0])
        return (
            Phase("day", tuple(message for _, message in day)),
            Phase("evening", tuple(self._evening)),
            Phase("night", tuple(self._night), frozenset(self._expired_holds)),
        )
