"""Options that commands share: aliases, times, the actor, forms of output, pages."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import click
from click.core import ParameterSource

from worker.cli.output import SHOWS_ALL
from worker.cli.times import TIME
from worker.runtime.identity import Operator, login_name

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

# -- options under two names ------------------------------------------------------------------------------


class AliasedOption(click.Option):
    """Option that also answers to the names of the version before, which its help doesn't show."""

    def __init__(self, *arguments: Any, aliases: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.aliases = list(aliases)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register all names, each old one by itself, so that an error can name it."""
        super().add_to_parser(parser, ctx)
        for alias in self.aliases:
            parser.add_option(obj=self, opts=[alias], dest=alias, action="store", nargs=self.nargs)

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """Return the value under the last of the names that were given."""
        given = [name for name in opts if name == self.name or name in self.aliases]
        if not given:
            return super().consume_value(ctx, opts)
        ctx.meta[self._key] = given[-1]
        return super().consume_value(ctx, {**opts, str(self.name): opts[given[-1]]})

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return the name that the user typed."""
        typed = None if ctx is None else ctx.meta.get(self._key)
        return f"'{typed}'" if typed in self.aliases else super().get_error_hint(ctx)

    @property
    def _key(self) -> str:
        return f"{__name__}.{self.name}"


def time_option(name: str, parameter: str, help_: str, *, aliases: Sequence[str] = ()) -> Decorator:
    """Return an option that takes a time in any form of ``times``."""
    return click.option(
        name, parameter, type=TIME, metavar="TIME", help=help_, cls=AliasedOption, aliases=aliases
    )


with_timezone = click.option(
    "--tz",
    "--timezone",
    "timezone",
    default="UTC",
    show_default=True,
    help="Time zone in which days begin and end, such as Europe/Berlin.",
)


# -- several options that make one value ------------------------------------------------------------------


def options_as(
    name: str, options: dict[str, Decorator], value_of: Callable[..., Any]
) -> Callable[[Command], Command]:
    """Return a decorator that gives a command ``options``, and as ``name`` the one value they make.

    The keys of ``options`` are the names of their parameters, and those of ``value_of``.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(*arguments: Any, **parameters: Any) -> Any:
            given = {key: parameters.pop(key) for key in options}
            return command(*arguments, **{name: value_of(**given)}, **parameters)

        wrapped: Command = run
        for option in reversed(options.values()):
            wrapped = option(wrapped)
        return wrapped

    return decorate


# -- who acts ---------------------------------------------------------------------------------------------


def operator() -> str:
    """Return the user who runs the command; "unknown" where the system has no name for them."""
    return login_name() or "unknown"


def named_operator() -> str:
    """Return the user who runs the command. Raises UsageError where the system has no name for them."""
    name = login_name()
    if name is None:
        raise click.UsageError("this process has no login name; say who does it with --actor")
    return name


def _here(_ctx: click.Context, _parameter: click.Parameter, name: str) -> Operator:
    return Operator.here(name)


def actor_option(default: Callable[[], str] = operator) -> Decorator:
    """Return the option that names who acts."""
    return click.option(
        "--actor",
        default=default,
        callback=_here,
        show_default="your login name",
        help="Who does it; kept in the activity log.",
        cls=AliasedOption,
        aliases=["--as"],
    )


with_actor = actor_option()


def required_reason(reason: str | None) -> str:
    """Return the reason of a command that needs none for a look. Raises UsageError without one."""
    if reason is None or not reason.strip():
        raise click.UsageError("Missing option '--reason': say why, others will want to know")
    return reason


def confirm(question: str, *, refusal: str) -> None:
    """Ask before something is done; end the command at a no.

    Raises UsageError, which begins with ``refusal``, where nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise click.UsageError(f"{refusal}: add --yes where nobody can be asked")
    click.confirm(question, abort=True, err=True)


# -- forms of output --------------------------------------------------------------------------------------

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")


def require_one_form(*, as_csv: bool, as_json: bool) -> None:
    """Raise UsageError where two forms of output are asked for."""
    if as_csv and as_json:
        raise click.UsageError("give --csv or --json, not both")


def _show_all(ctx: click.Context, _: click.Parameter, is_wide: bool) -> None:  # noqa: FBT001 - as click calls it
    ctx.meta[SHOWS_ALL] = is_wide


with_wide = click.option(
    "--wide",
    is_flag=True,
    expose_value=False,
    callback=_show_all,
    help="Show all columns, uncut, however narrow the terminal is.",
)

# -- pages ------------------------------------------------------------------------------------------------


def limit_option(default: int | None, what: str) -> Decorator:
    """Return the option that limits a page; without a default all is one page."""
    return click.option(
        "--limit",
        type=click.IntRange(1, 1000),
        default=default,
        show_default="all" if default is None else True,
        help=f"{what} a page, at most 1000.",
    )


def cursor_option(
    type_: click.ParamType[Any, Any] = click.STRING, *, aliases: Sequence[str] = ()
) -> Decorator:
    """Return the option that goes on behind a page."""
    return click.option(
        "--cursor",
        type=type_,
        help="Go on behind a page: the cursor that it named.",
        cls=AliasedOption,
        aliases=aliases,
    )


def show_next(cursor: str | int | None) -> None:
    """Show the command for the next page, on standard error; nothing at the end."""
    if cursor is None:
        return
    words = ["billing-worker", *_without_cursor(sys.argv[1:]), "--cursor", str(cursor)]
    click.echo(f"next page: {shlex.join(words)}", err=True)


_CURSORS = ("--cursor", "--before", "--after", "--offset")


def _without_cursor(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    is_value = False
    for word in words:
        is_cursor = word in _CURSORS
        if not (is_value or is_cursor or word.startswith(tuple(f"{name}=" for name in _CURSORS))):
            kept.append(word)
        is_value = is_cursor
    return kept
