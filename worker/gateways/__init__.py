"""Webhooks of payment gateways: events to commands (pure), signatures, and the bridge that publishes.

HTTP is not here: ``worker.http.webhooks`` hands in headers and bodies.
"""

from worker.gateways.mapped import Mapped, Reason
from worker.gateways.paddle import PaddleRules, map_paddle
from worker.gateways.resolving import Resolver, TableResolver
from worker.gateways.stripe import PaymentSource, StripeRules, map_stripe

__all__ = [
    "Mapped",
    "PaddleRules",
    "PaymentSource",
    "Reason",
    "Resolver",
    "StripeRules",
    "TableResolver",
    "map_paddle",
    "map_stripe",
]
