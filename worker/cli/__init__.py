"""The command line: parse, call, print; no rules.

Exit codes: 0 done; 1 the answer is no (drift, not affordable, a check that failed, lines not taken);
2 wrong usage or configuration; 3 a server does not answer; 4 the named thing does not exist; 5 a limit of
faults is passed.
"""

from worker.cli.root import main

__all__ = ["main"]
