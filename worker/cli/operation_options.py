"""Options that choose operations, the same for every command that lists or changes a set of them."""

from collections.abc import Sequence
from typing import Any

import click

from worker.bootstrap import utc_now
from worker.cli.options import Decorator, options_as, time_option
from worker.cli.times import TimeText, time_range
from worker.errors import QueryError
from worker.ledger.queries.operation_filter import OperationFilter

_Tokens = click.IntRange(0, 2**63 - 1)

#: Option of each field of the filter.
OPTIONS = {
    "user_id": "--user",
    "types": "--type",
    "status": "--status",
    "codes": "--code",
    "sender": "--sender",
    "feature": "--feature",
    "metadata": "--metadata",
    "reference_prefix": "--reference-prefix",
    "min_tokens": "--min-tokens",
    "max_tokens": "--max-tokens",
    "since": "--from",
    "until": "--to",
}


def _pairs(
    ctx: click.Context, parameter: click.Parameter, texts: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Return ``key=value`` texts as pairs; a value may hold further signs of equality."""
    pairs = []
    for text in texts:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise click.BadParameter(
                f"{text!r} is no key=value; write such as job=17", ctx=ctx, param=parameter
            )
        pairs.append((name, value))
    return tuple(pairs)


_FILTERS: dict[str, Decorator] = {
    "user": click.option("--user", help="Only of this user."),
    "types": click.option(
        "--type",
        "types",
        multiple=True,
        help="Only of this type, such as usage.deduct; more than one may be.",
    ),
    "status": click.option(
        "--status", type=click.Choice(["applied", "rejected"]), help="Only applied, or only rejected ones."
    ),
    "codes": click.option(
        "--code",
        "codes",
        multiple=True,
        help="Only with this code, such as unknown_package; or more than one.",
    ),
    "sender": click.option(
        "--sender", help='Only from this broker user or application, or both: "app (uploads)".'
    ),
    "feature": click.option("--feature", help="Only usage of this feature, or of this meter."),
    "metadata": click.option(
        "--metadata",
        multiple=True,
        callback=_pairs,
        metavar="KEY=VALUE",
        help="Only with this metadata; all that are given must hold.",
    ),
    "prefix": click.option(
        "--reference-prefix", "prefix", help="Only references that begin so, such as stripe:pi_."
    ),
    "amount": click.option("--amount", type=_Tokens, help="Only what moved so many tokens, taken or given."),
    "min_tokens": click.option("--min-tokens", type=_Tokens, help="Only what moved so many tokens, or more."),
    "max_tokens": click.option(
        "--max-tokens", type=_Tokens, help="Only what moved so many tokens, or fewer."
    ),
    "start": time_option(
        "--from", "start", "Only recorded from this time on: 2h, today, 2026-11-26 11:03 (UTC)."
    ),
    "end": time_option("--to", "end", "Only recorded before this time."),
}


def _filter(
    *, start: TimeText | None, end: TimeText | None, amount: int | None, **values: Any
) -> OperationFilter:
    """Return the filter. Raises UsageError, which names the option."""
    least, most = values["min_tokens"], values["max_tokens"]
    if amount is not None:
        if least is not None or most is not None:
            raise click.UsageError("give --amount, or --min-tokens and --max-tokens")
        least = most = amount
    since, until = time_range(start, end, utc_now())
    try:
        return OperationFilter(
            user_id=values["user"],
            types=frozenset(values["types"]),
            status=values["status"],
            codes=frozenset(values["codes"]),
            sender=values["sender"],
            feature=values["feature"],
            metadata=values["metadata"],
            reference_prefix=values["prefix"],
            min_tokens=least,
            max_tokens=most,
            since=since,
            until=until,
        )
    except QueryError as error:
        option = OPTIONS.get(error.field or "")
        raise click.BadParameter(str(error), param_hint=option and f"'{option}'") from error


#: Give a command the filters as options, and the filter that they make as ``wanted``.
with_operation_filters = options_as("wanted", _FILTERS, _filter)
