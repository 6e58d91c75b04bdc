"""Settings and folder of a demo, independent of the environment."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy.engine import URL

from worker.catalog import DEFAULT_CATALOG
from worker.errors import ConfigurationError
from worker.settings import Settings

# The embedded broker takes a millisecond or more a message: with small batches the bar moves steadily.
_EMBEDDED_BATCH = 100


def demo_settings(folder: Path, broker_url: str | None, database_url: str | None, workers: int) -> Settings:
    """Return the default settings; the environment has no effect."""
    ledger = URL.create("sqlite", database=str(folder / "ledger.sqlite3"))
    defaults: dict[str, Any] = {name: field.default for name, field in Settings.model_fields.items()}
    own: dict[str, Any] = {
        "broker_url": SecretStr(broker_url or f"sqla+sqlite:///{folder / 'broker.sqlite3'}"),
        "database_url": SecretStr(database_url or ledger.render_as_string()),
        "catalog": DEFAULT_CATALOG,
        "workers": workers,
        "readers": 0,
        "log_level": "WARNING",
    }
    if broker_url is None:
        own["batch_size"] = _EMBEDDED_BATCH
    return Settings.model_construct(**defaults | own)


@contextmanager
def demo_folder(keep: Path | None) -> Iterator[Path]:
    """Yield an empty folder: ``keep``, or a temporary one."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise ConfigurationError(f"{keep} is not empty; name a new folder")
    named = tempfile.TemporaryDirectory(prefix="billing-demo-") if keep is None else nullcontext(str(keep))
    with named as name:
        yield Path(name).resolve()
