"""Report on the settings: effective values without secrets, their sources, and names that nobody knows.

Pure: the environment and the lines of ``.env`` come in as arguments.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import AliasChoices, SecretStr

from worker.runtime.secret_urls import SECRET_FILES, SECRET_URLS
from worker.settings import ENV_PREFIX, Settings, redacted

#: A value that JSON can carry, without secrets.
Shown = str | int | float | bool | list[Any] | dict[str, Any] | None

#: Settings that differ between the processes of one `run`: they say nothing of how a worker judges.
_OF_ONE_PROCESS = frozenset({"workers", "readers", "with_scheduler", "metrics_port"})
#: Settings of other commands, by the classes beside those commands; a test compares.
OTHER_NAMES = frozenset(
    f"{ENV_PREFIX}{name}"
    for name in (
        "BRIDGE_CONFIG",
        "BRIDGE_LISTEN",
        "BRIDGE_STRIPE_SECRETS",
        "BRIDGE_STRIPE_SECRETS_FILE",
        "BRIDGE_PADDLE_SECRETS",
        "BRIDGE_PADDLE_SECRETS_FILE",
        "CONSOLE_USERS",
        "CONSOLE_SECRET",
        "CONSOLE_SECRET_FILE",
        "CONSOLE_TRUSTED_PROXIES",
    )
)
#: Prefix of the variables of the project's own tests.
_TESTS = f"{ENV_PREFIX}TEST_"
_SERVICE_HOST = re.compile(r"(.+)_SERVICE_HOST")
_CLOSE = 0.6


@dataclass(frozen=True, slots=True)
class ReportedSetting:
    """Setting with its value, its default and the place it comes from; ``variable`` is its name outside."""

    variable: str
    value: Shown
    default: Shown
    source: str

    @property
    def is_changed(self) -> bool:
        """True where the value differs from the default."""
        return self.value != self.default


@dataclass(frozen=True, slots=True)
class UnknownName:
    """Variable with our prefix that no setting has; ``nearest`` is the setting that was probably meant."""

    name: str
    nearest: str | None

    def __str__(self) -> str:
        if self.nearest is None:
            return f"{self.name} is no setting and changes nothing: see `billing-worker config`"
        return f"{self.name} is no setting and changes nothing: did you mean {self.nearest}?"


def effective_settings(settings: Settings) -> dict[str, Shown]:
    """Return each setting by its variable, as JSON can carry it; URLs without passwords and queries."""
    return {variable_of(name): _shown(value) for name, value in settings if name not in SECRET_FILES}


def changed_settings(settings: Settings) -> dict[str, Shown]:
    """Return the effective settings that differ from their defaults."""
    defaults = default_settings()
    return {name: value for name, value in effective_settings(settings).items() if value != defaults[name]}


def default_settings() -> dict[str, Shown]:
    """Return the default of each setting, by its variable."""
    return {
        variable_of(name): _shown(field.get_default())
        for name, field in Settings.model_fields.items()
        if name not in SECRET_FILES
    }


def settings_hash(settings: Settings) -> str:
    """Return a digest of the settings, the same for all processes of one `run`.

    Passwords are no part of it: whoever reads it could try them.
    """
    common = {name: value for name, value in effective_settings(settings).items() if is_common(name)}
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:16]


def is_common(variable: str) -> bool:
    """Return True for a setting that all processes of one `run` share."""
    return variable not in _VARIABLES_OF_ONE_PROCESS


def differences(own: Mapping[str, Shown], others: Mapping[str, Shown]) -> dict[str, tuple[Shown, Shown]]:
    """Return what two workers' changed settings differ in: our value and theirs, by variable."""
    defaults = default_settings()
    names = sorted(name for name in {*own, *others} if is_common(name))
    pairs = {
        name: (own.get(name, defaults.get(name)), others.get(name, defaults.get(name))) for name in names
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def report(
    settings: Settings,
    environment: Mapping[str, str],
    lines: Mapping[str, Any] = MappingProxyType({}),
    flags: Collection[str] = (),
) -> list[ReportedSetting]:
    """Return all settings in the order of their definition.

    ``lines`` are those of ``.env``; ``flags`` the names of the settings that flags have given.
    """
    values, defaults = effective_settings(settings), default_settings()
    sources = _Sources(flags, (("environment", _upper(environment)), (".env", _upper(lines))))
    return [
        ReportedSetting(variable, values[variable], defaults[variable], sources.of(name))
        for name in Settings.model_fields
        if (variable := variable_of(name)) in values
    ]


def unknown_names(names: Collection[str]) -> list[UnknownName]:
    """Return the names with our prefix that no setting has, each with the nearest one that has it.

    Kubernetes gives each container variables of each service; those of one named ``billing-…`` are no typos.
    """
    given = {name.upper() for name in names}
    known = known_names()
    services = {found[1] for name in given if (found := _SERVICE_HOST.fullmatch(name))}
    strange = [
        name
        for name in sorted(given - known)
        if name.startswith(ENV_PREFIX)
        and not name.startswith(_TESTS)
        and not any(_is_of_service(name, service) for service in services)
    ]
    return [UnknownName(name, _nearest(name, known)) for name in strange]


def known_names() -> frozenset[str]:
    """Return the variables of all settings, the older names that still hold included."""
    aliases = {
        alias
        for field in Settings.model_fields.values()
        if isinstance(field.validation_alias, AliasChoices)
        for alias in field.validation_alias.choices
        if isinstance(alias, str)
    }
    return frozenset({*map(variable_of, Settings.model_fields), *aliases, *OTHER_NAMES})


def variable_of(name: str) -> str:
    """Return the variable of a setting."""
    return ENV_PREFIX + name.upper()


def _nearest(name: str, known: Collection[str]) -> str | None:
    """Return the nearest known name, by what stands behind the prefix that all of them share."""
    bare = {one.removeprefix(ENV_PREFIX): one for one in known}
    close = get_close_matches(name.removeprefix(ENV_PREFIX), bare, 1, _CLOSE)
    return bare[close[0]] if close else None


def _is_of_service(name: str, service: str) -> bool:
    return name == f"{service}_PORT" or name.startswith((f"{service}_SERVICE_", f"{service}_PORT_"))


def _upper(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name.upper(): value for name, value in variables.items()}


def _shown(value: Any) -> Shown:
    match value:
        case SecretStr():
            return redacted(value)
        case Path():
            return str(value)
        case list() | tuple():
            return [_shown(item) for item in value]
        case dict():
            return {str(key): _shown(item) for key, item in value.items()}
        case bool() | int() | float() | None:
            return value
        case _:
            return str(value)


@dataclass(frozen=True, slots=True)
class _Sources:
    """Sources of the settings: flags first, then the environment, then ``.env``."""

    flags: Collection[str]
    places: Sequence[tuple[str, Mapping[str, Any]]]

    def of(self, name: str) -> str:
        """Return the place that the setting ``name`` comes from."""
        if name in self.flags:
            return "flag"
        place = self._place_of(_variables_of(name))
        file = next((file for file in _files_of(name) if self._place_of([file]) is not None), None)
        if file is None:
            return place or "default"
        return f"file of {file}" if place is None else f"{place}, file of {file}"

    def _place_of(self, variables: Sequence[str]) -> str | None:
        for place, values in self.places:
            if any(values.get(variable) is not None for variable in variables):
                return place
        return None


def _files_of(name: str) -> list[str]:
    """Return the variables that name the files of a URL and of its password."""
    return [
        variable_of(file)
        for secret in SECRET_URLS
        if secret.url == name
        for file in (secret.url_file, secret.password_file)
    ]


def _variables_of(name: str) -> list[str]:
    alias = Settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str)]
    return [variable_of(name)]


_VARIABLES_OF_ONE_PROCESS = frozenset(map(variable_of, _OF_ONE_PROCESS))
