"""Scenario of a realistic day, from a seed: successes, rejections and malformed messages."""

import random
from datetime import datetime

from worker.catalog import Catalog
from worker.demo.commands import CommandFactory
from worker.demo.day_cases import DayCases
from worker.demo.day_traffic import DayTraffic
from worker.demo.scenario import Phase, Scenario, message_of
from worker.demo.schedule import Schedule
from worker.demo.users import DemoUsers

MESSAGES_MIN = 150


def day_scenario(
    rng: random.Random, now: datetime, catalog: Catalog, *, messages: int, suffix: str = ""
) -> Scenario:
    """Return a scenario of about a day with exactly ``messages`` messages, at least ``MESSAGES_MIN``.

    ``suffix`` ends every reference and user, so that a day can run on a ledger that has others.
    """
    rounds = max(1, messages // 500)
    users = DemoUsers(rng, catalog, max(12, messages // 25), rounds, suffix)
    commands, schedule = CommandFactory(rng, now, catalog, suffix), Schedule(now)
    cases = DayCases(rng, now, catalog, users, commands, schedule, suffix)
    traffic = DayTraffic(rng, users, commands, schedule)
    openings = [message_of("opening", commands.open(user, tier)) for user, tier in users.tiers.items()]
    for _ in range(rounds):
        openings.append(message_of("unknown tier", commands.open("eve.nobody" + suffix, "platinum")))
        cases.add_round()
    for _ in range(max(1, messages // 1000)):
        cases.add_malformed()
    for user in users.short_of_tokens:
        cases.add_insufficient_balance(user)
    again, reused = messages // 20, max(2, messages // 200)
    traffic.fill(messages - len(openings) - again - reused)
    traffic.deliver_again(again)
    traffic.reuse_references(reused)
    phases = (Phase("opening accounts", tuple(openings)), *schedule.phases())
    return Scenario(phases, facts={"users": len(users.tiers)})
