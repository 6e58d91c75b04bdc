"""Alembic's entry: runs the migrations on the connection that ``migrate`` hands over, or writes their SQL.

On PostgreSQL each revision is a transaction of its own, and waits for a lock no longer than a batch takes:
whoever waits for a table's lock holds up everybody behind.
"""

from alembic import context

from worker.ledger import migrations

LOCK_TIMEOUT = f"SET lock_timeout = '{migrations.LOCK_TIMEOUT_MS}ms'"
STATEMENT_TIMEOUT = "SET statement_timeout = 0"  # to build an index takes as long as the table is large

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", transaction_per_migration=True)
    context.execute(LOCK_TIMEOUT)
    context.execute(STATEMENT_TIMEOUT)
else:
    connection = context.config.attributes["connection"]
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(LOCK_TIMEOUT)
        connection.exec_driver_sql(STATEMENT_TIMEOUT)
        connection.commit()
    context.configure(
        connection=connection, transaction_per_migration=connection.dialect.name == "postgresql"
    )
with context.begin_transaction():
    context.run_migrations()
