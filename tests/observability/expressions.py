"""Names and labels in expressions of PromQL, and the metrics that there are."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from prometheus_client import CollectorRegistry

from worker.broker import BILLING
from worker.cli.audit_file import audit_registry
from worker.ledger.audit import AuditReport
from worker.metrics import Metrics, ProcessRole

_NAME = re.compile(r"\b((?:billing|process|python)_[a-z_]+)\b")
_SELECTOR = re.compile(r"\b((?:billing|process)_[a-z_]+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
_BY = re.compile(r"\bby \(([^)]*)\)")

CLEAN = AuditReport((), {}, 0, 0, 0, 0, {"accounts": 1})


def registries() -> Iterable[CollectorRegistry]:
    """Yield the registry of each role, and that of an audit's file."""
    for role in ProcessRole:
        metrics = Metrics([queue.name for queue in BILLING.work])
        metrics.describe(catalog="a", config="b")
        yield metrics.registry_of(role)
    yield audit_registry(CLEAN, ended_at=0.0, took_s=0.0)


@cache
def labels_by_series() -> Mapping[str, set[str]]:
    """Return the labels of every series that there may be, by its name; a histogram has three names."""
    found: dict[str, set[str]] = {}
    for registry in registries():
        for collector in registry._collector_to_names:
            labels = set(getattr(collector, "_labelnames", ()) or getattr(collector, "label_names", ()))
            for family in collector.collect():
                for suffix in _SUFFIXES.get(family.type, [""]):
                    bucket = {"le"} if suffix == "_bucket" else set()
                    found.setdefault(family.name + suffix, set()).update(labels | bucket)
                for sample in family.samples:
                    found.setdefault(sample.name, set()).update(sample.labels)
    return found


_SUFFIXES: Mapping[str, Sequence[str]] = {
    "counter": ["_total"],
    "histogram": ["_bucket", "_count", "_sum"],
    "info": ["_info"],
}


def series_in(expression: str) -> set[str]:
    """Return the names of the series in ``expression``."""
    return set(_NAME.findall(expression))


def unknown_labels(expression: str, given: Iterable[str] = ("job", "instance")) -> set[str]:
    """Return the labels that none of the expression's series has; a scrape gives some to all."""
    known = labels_by_series()
    every = set(given).union(*(known[name] for name in series_in(expression)))
    wrong = {
        label
        for name, selected in _SELECTOR.findall(expression)
        for label in _LABEL.findall(selected)
        if label not in known[name] | set(given)
    }
    grouped = {label.strip() for labels in _BY.findall(expression) for label in labels.split(",")}
    return wrong | (grouped - every)
