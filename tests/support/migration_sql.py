"""The SQL of the migrations since 0013, from where on they only add; ``make lint`` has squawk read it.

Its comments say which revision a line is of.
"""

import sys

from worker.ledger.migrations import sql_of

#: The last revision that was made for a worker that is stopped.
LAST_WITH_A_STOP = "0013"

if __name__ == "__main__":
    sys.stdout.write(sql_of(f"{LAST_WITH_A_STOP}:head"))
