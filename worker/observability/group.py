"""Group of metrics that belong to one role of a process."""

from collections.abc import Iterable, Sequence
from math import nan

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.registry import Collector

from worker.observability.histogram import BatchHistogram


class MetricGroup:
    """Metrics of one role, made into ``registry``; ``collectors`` are those of this group."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.collectors: list[Collector] = []

    def info(self, name: str, documentation: str) -> Info:
        """Return a new info metric."""
        info = Info(name, documentation, registry=self._registry)
        self.collectors.append(info)
        return info

    def counter(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        zero: Iterable[tuple[str, ...]] = (),
    ) -> Counter:
        """Return a new counter; the label sets of ``zero`` exist from the beginning."""
        counter = Counter(name, documentation, labels, registry=self._registry)
        for values in zero:
            counter.labels(*values)
        self.collectors.append(counter)
        return counter

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """Return a new gauge, which begins with 0."""
        gauge = Gauge(name, documentation, labels, registry=self._registry)
        self.collectors.append(gauge)
        return gauge

    def unknown(self, name: str, documentation: str) -> Gauge:
        """Return a new gauge that is NaN until it is set: nobody has looked yet, and that is not nothing."""
        gauge = self.gauge(name, documentation)
        gauge.set(nan)
        return gauge

    def histogram(
        self, name: str, documentation: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        """Return a new histogram."""
        histogram = Histogram(name, documentation, labels, buckets=buckets, registry=self._registry)
        self.collectors.append(histogram)
        return histogram

    def batch_histogram(
        self,
        name: str,
        documentation: str,
        buckets: Sequence[float],
        labels: Sequence[str],
        zero: Iterable[tuple[str, ...]],
    ) -> BatchHistogram:
        """Return a new histogram that takes the observations of a batch at once."""
        histogram = BatchHistogram(
            name, documentation, labels, buckets=buckets, zero=zero, registry=self._registry
        )
        self.collectors.append(histogram)
        return histogram
