"""The broker: topology as data, deliveries as raw bytes, and links that consume, publish and administer."""

from worker.broker.deliveries import Delivery
from worker.broker.link import broker_is_embedded, open_link
from worker.broker.outgoing import DIRECT_REPLY_TO, Outgoing, PublishResult
from worker.broker.protocols import Administers, Consumes, Link, Publishes
from worker.broker.sharing import BulkShare
from worker.broker.topology import BILLING, JournalLimits, Topology

__all__ = [
    "BILLING",
    "DIRECT_REPLY_TO",
    "Administers",
    "BulkShare",
    "Consumes",
    "Delivery",
    "JournalLimits",
    "Link",
    "Outgoing",
    "PublishResult",
    "Publishes",
    "Topology",
    "broker_is_embedded",
    "open_link",
]
