"""Histogram that takes the observations of a batch at once."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from threading import Lock

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class BatchHistogram(Collector):
    """Histogram with the upper bounds ``buckets``; one lock for each batch, and not for each observation.

    ``zero`` are the label sets that exist from the beginning.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        zero: Iterable[tuple[str, ...]],
        registry: CollectorRegistry,
    ) -> None:
        self.name, self.label_names = name, tuple(labels)
        self._documentation, self._bounds = documentation, tuple(buckets)
        self._lock = Lock()
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        for values in zero:
            self.observe(values, ())
        registry.register(self)

    def observe(self, values: tuple[str, ...], observations: Iterable[float]) -> None:
        """Count ``observations`` under the values of the labels."""
        bounds = self._bounds
        with self._lock:
            counts = self._counts.setdefault(values, [0] * (len(bounds) + 1))
            total = self._sums.get(values, 0.0)
            for observation in observations:
                counts[bisect_left(bounds, observation)] += 1
                total += observation
            self._sums[values] = total

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Return the family without samples."""
        return [self._family()]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return the family with its samples."""
        family = self._family()
        with self._lock:
            for values, counts in self._counts.items():
                upto = zip((*map(floatToGoString, self._bounds), "+Inf"), accumulate(counts), strict=True)
                family.add_metric(values, list(upto), self._sums[values])
        return [family]

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self.name, self._documentation, labels=self.label_names)
