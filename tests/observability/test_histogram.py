"""Histogram that takes a batch at once: the same as prometheus_client's own."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest, values

from worker.observability.histogram import BatchHistogram

NAME, HELP, BUCKETS = "age_seconds", "Age.", (0.1, 1, 30)
OBSERVED = {"a": [0.0, 0.1, 0.11, 1, 29.9, 30, 31, 1e9], "b": [2.5]}


def test_batch_histogram_is_scraped_like_the_library_s_own() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    batch = BatchHistogram(NAME, HELP, ["lane"], buckets=BUCKETS, zero=[("a",), ("c",)], registry=ours)
    single = Histogram(NAME, HELP, ["lane"], buckets=BUCKETS, registry=theirs)
    for lane in ("a", "c"):
        single.labels(lane)
    for lane, observations in OBSERVED.items():
        batch.observe((lane,), observations)
        for observation in observations:
            single.labels(lane).observe(observation)
    assert lines(ours) == lines(theirs)


def lines(registry: CollectorRegistry) -> list[str]:
    assert values.ValueClass is not None
    text = generate_latest(registry).decode().splitlines()
    return sorted(line for line in text if "_created" not in line)
