"""Publishing of claimed dead letters, so that one at fault holds up no other."""

from collections.abc import Callable, Mapping, Sequence

from worker.broker import Outgoing, PublishResult
from worker.deadletters.replay.items import Claimed
from worker.deadletters.replay.links import RunLinks
from worker.deadletters.replay.message import replay_of
from worker.errors import NotPossibleError

#: Those that the broker has, and by number the reason of those that can't be sent. Others are sent again.
Published = tuple[list[Claimed], dict[int, str]]


class RunPublisher:
    """Publisher of one run. ``refusal`` is the broker's latest, while it takes none."""

    def __init__(
        self,
        links: RunLinks,
        replay_id: int,
        sent_as: str | None,
        on_trouble: Callable[[str], None],
        route: Callable[[Outgoing], Outgoing],
    ) -> None:
        self._route = route
        self._links, self._replay_id, self._sent_as = links, replay_id, sent_as
        self._on_trouble = on_trouble
        self.refusal: str | None = None

    def publish(self, claimed: Sequence[Claimed]) -> Published:
        """Publish dead letters together, or one by one after a fault; those without a way aren't sent."""
        messages: dict[Outgoing, Claimed] = {}
        unsent: dict[int, str] = {}
        for each in claimed:
            try:
                replay = replay_of(each.dead_letter, self._sent_as, self._replay_id)
                messages[self._route(replay)] = each
            except NotPossibleError as error:
                unsent[each.dead_letter.number] = str(error)
        if not messages:
            return [], unsent
        sent, returned = self._publish_all(messages)
        return sent, unsent | returned

    def _publish_all(self, messages: Mapping[Outgoing, Claimed]) -> Published:
        try:
            result = self._links.publish(list(messages))
        except Exception:  # noqa: BLE001 - one message is at fault until proven otherwise
            self._links.close_publishing()
            return self._publish_one_by_one(messages)
        self._note_refusal(result)
        returned = {messages[message].dead_letter.number: _no_route(message) for message in result.returned}
        return [messages[message] for message in result.accepted], returned

    def _note_refusal(self, result: PublishResult) -> None:
        if result.refused and self.refusal is None:
            self._on_trouble(f"{result.refusal} What it refused is sent again until it is taken")
        self.refusal = result.refusal if result.refused else None

    def _publish_one_by_one(self, messages: Mapping[Outgoing, Claimed]) -> Published:
        """Publish one by one: the broker closes the connection for a message, or it can't be written at all.

        Raises BrokerUnavailableError where the broker is away: then no message is at fault.
        """
        sent: list[Claimed] = []
        returned: dict[int, str] = {}
        for message, each in messages.items():
            self._links.probe()
            try:
                result = self._links.publish([message])
            except Exception as error:  # noqa: BLE001 - what can't even be written comes here too
                self._links.close_publishing()
                self._links.probe()  # raises where the broker itself is away
                returned[each.dead_letter.number] = f"it can't be sent: {error}"
            else:
                if result.returned:
                    returned[each.dead_letter.number] = _no_route(message)
                elif result.accepted:
                    sent.append(each)  # one that a full queue refused is claimed still, and sent again
        return sent, returned


def _no_route(message: Outgoing) -> str:
    exchange = message.exchange or "the default exchange"
    return f"reached no queue: {exchange} has no route for {message.routing_key!r}"
