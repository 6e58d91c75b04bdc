"""The only reader of the environment: flags first, then ``BILLING_…`` variables, then a ``.env`` file."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker import __version__
from worker.addresses import (
    BrokerAddress,
    Certificates,
    DatabaseAddress,
    is_amqp,
    is_postgresql,
    require_management,
    require_unambiguous,
    shown,
)
from worker.catalog import Catalog
from worker.errors import ConfigurationError
from worker.ledger.form import LedgerForm
from worker.runtime.secret_urls import SECRET_FILES, with_secrets, without_files

ENV_PREFIX = "BILLING_"


def _off_as_zero(value: Any) -> Any:
    return 0 if isinstance(value, str) and value.strip().lower() == "off" else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError(_TWICE)
    return dict(pairs)


def _users_or_prefixes(value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        return value
    raise ValueError("must be a list of users, or an object of users and the prefixes of their references")


_TWICE = "names a pattern or a user twice; say all about it once"
_LIST, _OBJECT = "<list>", "<object>"

#: The users that may send a type, or each of them with the prefix of its references.
_Users = Annotated[
    Annotated[tuple[str, ...], Tag(_LIST)] | Annotated[dict[str, str], Tag(_OBJECT)],
    Discriminator(lambda value: _OBJECT if isinstance(value, dict) else _LIST),
    BeforeValidator(_users_or_prefixes),
]


class Settings(BaseSettings):
    """Everything that can be set. URLs hold passwords: they are shown through ``redacted``."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    broker_url: SecretStr = SecretStr("amqp://guest:guest@127.0.0.1:5672/")
    #: Files that hold a URL, or the password of one; None once they are read, see ``runtime.secret_urls``.
    broker_url_file: Path | None = None
    broker_password_file: Path | None = None
    database_url_file: Path | None = None
    database_password_file: Path | None = None
    read_database_url_file: Path | None = None
    read_database_password_file: Path | None = None
    #: RabbitMQ's management API, for `check`; where None, each node's host with port 15672.
    management_url: SecretStr | None = None
    database_url: SecretStr = SecretStr("postgresql://billing@127.0.0.1:5432/billing")
    #: Place of the settings of database sessions: each connection asks for them, or its role has them.
    session_settings: Literal["connection", "role"] = "connection"
    #: Partitions of the queues of work that messages are published to: 8, 16, 32 or 64; 0: none.
    partitions: int = 0
    #: Time after which the partitions of a dead worker are taken by the others, a look more or less.
    lease_s: Annotated[float, Field(ge=1, le=600)] = 10.0
    #: Slots that a transaction may have, and what judges the references: see OPERATING.
    ledger_form: LedgerForm = LedgerForm.WHOLE
    #: The CA, certificate and key for servers with TLS whose URLs name none: PEM files.
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    catalog: Path | None = None

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    #: Processes that answer queries, beside the workers of `run`.
    readers: Annotated[int, Field(ge=0, le=64)] = 1
    #: A replica for queries; the primary where it is more than `read_max_lag_s` behind.
    read_database_url: SecretStr | None = None
    read_max_lag_s: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    batch_size: Annotated[int, Field(ge=1, le=2000)] = 500
    prefetch: Annotated[int, Field(ge=1, le=2000)] = (
        1500  # three batches; quorum queues take no more than 2000
    )
    tries: Annotated[int, Field(ge=1, le=100)] = 3
    #: Faults of ours in a row that become dead letters before their lane pauses; 0 or "off": any number.
    #: The name of the version before is taken for one version more.
    max_consecutive_faults: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            validation_alias=AliasChoices("BILLING_MAX_CONSECUTIVE_FAULTS", "BILLING_FLOOD_IN_A_ROW"),
        ),
        BeforeValidator(_off_as_zero),
    ] = 100
    on_limit: Literal["pause", "exit"] = "pause"
    database_timeout_s: Annotated[float, Field(ge=1, le=600)] = 10.0  # of each wait for the database
    consumer_timeout_s: Annotated[float, Field(ge=1, le=86_400)] = 1800.0  # the broker's consumer_timeout
    max_quantity: Annotated[int, Field(ge=1, le=2**63 - 1)] = 10**15
    #: A regular expression that every new id must match as a whole, such as [!-~]+ for ASCII without spaces.
    id_pattern: str | None = None

    reply_queue: str = "billing.replies"
    #: Queues that any message may name beside its sender's own: replies can be steered into all of them.
    reply_to_prefixes: Annotated[tuple[str, ...], NoDecode] = ()
    #: Permissions to send by the broker user (``user_id``): {"payment.*": ["gateway-bridge"]}, or
    #: with the prefix of each user's references: {"usage.*": {"ocr": "ocr-", "operator": ""}}.
    #: One source holds as a whole: an access rule must not be mixed from several.
    senders: Annotated[dict[str, _Users], NoDecode] = {}

    #: Broker users of our own processes (workers, scheduler, operators): what they publish again may name its
    #: first sender, and dead letters of theirs are believed. The user of ``broker_url`` is always one.
    worker_users: Annotated[tuple[str, ...], NoDecode] = ()

    with_scheduler: bool = False
    wait_for_schema: bool = False  # at the start, instead of exiting with 2
    scheduler_interval_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    scheduler_rate: Annotated[int, Field(ge=1, le=1000)] = 200  # commands a second, at most

    http_listen: str = "127.0.0.1:8801"
    http_tokens: Path | None = None
    #: Requests that are worked on at a time; half of them may be reports, each on a connection of its own.
    http_threads: Annotated[int, Field(ge=1, le=30)] = 8

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    #: Address that metrics are served on: in a container 0.0.0.0, so that others reach them.
    metrics_listen: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: none

    @model_validator(mode="before")
    @classmethod
    def _with_secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Read the secrets that are in files."""
        return with_secrets(values, ENV_PREFIX)

    @field_validator("broker_url", "database_url", "read_database_url", "management_url")
    @classmethod
    def _usable(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """Refuse a URL that two libraries read in two ways, and options that nobody knows."""
        if url is not None:
            _require_utf8(url.get_secret_value())
            _require_usable(url.get_secret_value(), is_management=info.field_name == "management_url")
        return url

    @field_validator("partitions")
    @classmethod
    def _usable_partitions(cls, partitions: int, info: ValidationInfo) -> int:
        """Refuse a number of partitions that would not serve whole slots, and any where there is no RabbitMQ.

        Routes of the embedded broker live in each process: what one publishes would reach no queue.
        """
        if not partitions:
            return 0
        url = info.data.get("broker_url")
        if url is not None and not is_amqp(url.get_secret_value()):
            raise ValueError("the embedded broker has no partitions: use RabbitMQ, or leave this out")
        from schemas.partitions import require_partitions  # a balance is read without the path of messages

        return require_partitions(partitions)

    @property
    def certificates(self) -> Certificates:
        """Files for servers with TLS whose URLs name none."""
        return Certificates(
            *(None if path is None else str(path) for path in (self.tls_ca, self.tls_cert, self.tls_key))
        )

    @field_validator("id_pattern")
    @classmethod
    def _usable_pattern(cls, pattern: str | None) -> str | None:
        """Refuse a pattern that the engine doesn't know, or that refuses the references we make ourselves."""
        if not pattern:
            return None
        from schemas.identifiers import pattern_fault  # a balance is read without the path of messages

        if (fault := pattern_fault(pattern)) is not None:
            raise ValueError(fault)
        return pattern

    @field_validator("senders", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        """Parse JSON from the environment."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value, object_pairs_hook=_unique)
        except ValueError as error:
            if str(error) == _TWICE:
                raise ValueError(_TWICE) from None
            raise ValueError('is no JSON object such as {"payment.*": ["gateway"]}') from None

    @field_validator("senders")
    @classmethod
    def _matching(cls, senders: dict[str, _Users]) -> dict[str, _Users]:
        """Refuse a pattern of no type: what it was to allow, or to deny, would be decided otherwise."""
        if not senders:
            return senders
        from worker.messages.rights import unmatched  # a balance is read without the path of messages

        if lost := unmatched(senders):
            patterns = ", ".join(map(repr, lost))
            raise ValueError(
                f"{patterns} matches no type; write a type such as payment.succeeded, or a pattern such as "
                "payment.* (types are in the contract)"
            )
        return senders

    @field_validator("reply_to_prefixes", "worker_users", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Split ``a,b`` from the environment; an empty text is an empty list."""
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )


def load_settings(**flags: Any) -> Settings:
    """Return the settings, with the ``flags`` that are not None before all else.

    Raises ConfigurationError that names the variables, never their values.
    """
    try:
        return Settings(**without_files({name: value for name, value in flags.items() if value is not None}))
    except ValidationError as error:
        problems = "; ".join(
            _problem(item["loc"], item["msg"])
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise ConfigurationError(f"settings: {problems}") from None
    except (UnicodeDecodeError, OSError) as error:
        why = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"can't be read: {error.strerror}"
        raise ConfigurationError(f"settings: the file .env {why}") from None


def _problem(location: tuple[int | str, ...], message: str) -> str:
    name, *inside = map(str, location)
    inside = [part for part in inside if part not in (_LIST, _OBJECT)]
    where = f" ({'.'.join(inside)})" if inside else ""
    return f"{_variable(name)}{where}: {message.removeprefix('Value error, ')}"


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper()


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the variables that give another process the same settings; they hold the passwords."""
    variables = {}
    for name, value in settings:
        match value:
            case None if name in SECRET_FILES:
                text = ""  # the other process would find it in its environment, beside what it held
            case None:
                continue
            case SecretStr():
                text = value.get_secret_value()
            case tuple():
                text = ",".join(value)
            case dict():
                text = json.dumps(value)
            case _:
                text = str(value)
        variables[_variable(name)] = text
    return variables


def config_digest(settings: Settings, catalog: Catalog) -> str:
    """Return a digest of what decides on refusals: the version, the catalog and the rules in the settings.

    The same for all workers that judge alike, whatever their pace and their servers.
    """
    judging = (
        __version__,
        catalog,
        settings.max_quantity,
        settings.id_pattern,
        sorted(settings.senders.items()),
        sorted(settings.worker_users),
    )
    return hashlib.sha256(repr(judging).encode()).hexdigest()[:16]


def redacted(url: SecretStr | str) -> str:
    """Return ``url`` without passwords and query, fit for logs; where in doubt only the scheme."""
    return shown(url.get_secret_value() if isinstance(url, SecretStr) else url)


def broker_user(url: SecretStr) -> str | None:
    """Return the user that the broker vouches for on ``url``; None where it vouches for nobody."""
    text = url.get_secret_value()
    return BrokerAddress.parse(text).user if is_amqp(text) else None


def own_users(settings: Settings) -> frozenset[str | None]:
    """Return the broker users of our own processes.

    The embedded broker vouches for nobody: who can write its file may do everything, so the anonymous user
    is one of ours there.
    """
    return frozenset({*settings.worker_users, broker_user(settings.broker_url)})


def _require_utf8(text: str) -> None:
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ValueError("has bytes that are no UTF-8: write them percent-encoded (\xe9 in Latin-1 is %E9)")


def _require_usable(url: str, *, is_management: bool) -> None:
    if is_management:
        require_management(url)
    elif is_amqp(url):
        BrokerAddress.parse(url)
    elif is_postgresql(url):
        DatabaseAddress.parse(url).require_options()
    else:
        require_unambiguous(url)
