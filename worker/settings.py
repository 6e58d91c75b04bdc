"""The only reader of the environment: flags first, then ``BILLING_…`` variables, then a ``.env`` file."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.errors import ConfigurationError

ENV_PREFIX = "BILLING_"


class Settings(BaseSettings):
    """Everything that can be set. URLs hold passwords: they are shown through ``redacted``."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    broker_url: SecretStr = SecretStr("amqp://guest:guest@127.0.0.1:5672/")
    database_url: SecretStr = SecretStr("postgresql://billing@127.0.0.1:5432/billing")
    catalog: Path | None = None

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    batch_size: Annotated[int, Field(ge=1, le=2000)] = 500
    prefetch: Annotated[int, Field(ge=1, le=2000)] = 1000  # quorum queues take no more than 2000
    tries: Annotated[int, Field(ge=1, le=100)] = 3
    max_quantity: Annotated[int, Field(ge=1, le=2**63 - 1)] = 10**15

    reply_queue: str = "billing.replies"
    reply_to_prefixes: Annotated[tuple[str, ...], NoDecode] = ("billing.replies",)
    #: Who may send what, as the broker vouches for it (``user_id``): {"payment.*": ["gateway-bridge"]}.
    senders: dict[str, tuple[str, ...]] = {}

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: none

    @field_validator("reply_to_prefixes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """``a,b`` from the environment; nothing at all allows no other queue than the default one."""
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )


def load_settings(**flags: Any) -> Settings:
    """The settings, with the ``flags`` that are not None before all else.

    Raises ConfigurationError that names the variables, never their values.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(
            f"{ENV_PREFIX}{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise ConfigurationError(f"settings: {problems}") from None
    except Exception as error:  # pydantic-settings wraps what json says of a bad value in its own errors
        if type(error).__name__ != "SettingsError":
            raise
        raise ConfigurationError(f"settings: {error}") from None


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give another process the same settings; they hold the passwords."""
    variables = {}
    for name, value in settings:
        match value:
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
        variables[ENV_PREFIX + name.upper()] = text
    return variables


def redacted(url: SecretStr | str) -> str:
    """``url`` without its password and without its query, fit for logs."""
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    parts = urlsplit(text)
    if "@" not in parts.netloc:
        return urlunsplit(parts._replace(query=""))
    user = parts.netloc.rpartition("@")[0].partition(":")[0]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}", query=""))
