"""Subscriptions: tiers that change, periods of both calendars, cancellations, and what they leave of tokens.

Each test is a story: at a time, commands; then the replies, and what the account must look like.
"""

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import (
    CancelSubscription,
    ChangeSubscription,
    Code,
    Command,
    CreditCommand,
)
