"""The broker: topology as data, deliveries as raw bytes, and links that receive, publish and acknowledge."""

from worker.broker.deliveries import DIRECT_REPLY_TO, Delivery, Outgoing, RefusedError
from worker.broker.link import Link, broker_is_embedded, open_link
from worker.broker.topology import BILLING, Topology

__all__ = [
    "BILLING",
    "DIRECT_REPLY_TO",
    "Delivery",
    "Link",
    "Outgoing",
    "RefusedError",
    "Topology",
    "broker_is_embedded",
    "open_link",
]
