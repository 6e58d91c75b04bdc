"""The command line: parse, call, print; no rules.

Exit codes: 0 done; 1 the answer is no (drift, not affordable, a check that failed, lines not taken);
2 wrong usage or configuration; 3 a server does not answer; 4 what was asked for does not exist.
"""

from worker.cli.root import main

__all__ = ["main"]
