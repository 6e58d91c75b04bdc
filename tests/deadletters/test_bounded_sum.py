"""Bounded sums: exact, or SQLite's largest number where the sum is larger."""

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, MetaData, Table, create_engine, insert, select

from worker.deadletters.store.bounded_sum import SQLITE_MAX, bounded_sum

TOKENS = Table("tokens", MetaData(), Column("tokens", BigInteger))
amounts = st.integers(0, SQLITE_MAX) | st.integers(0, 2**33) | st.sampled_from([2**62, SQLITE_MAX, 2**32 - 1])


@given(st.lists(st.none() | amounts, max_size=6))
def test_sum_on_sqlite_is_exact_up_to_its_largest_number(values: list[int | None]) -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        TOKENS.create(connection)
        if values:
            connection.execute(insert(TOKENS), [{"tokens": one} for one in values])
        found = connection.execute(select(bounded_sum(connection, TOKENS.c.tokens))).scalar_one()
    engine.dispose()
    assert found == min(sum(one or 0 for one in values), SQLITE_MAX)
