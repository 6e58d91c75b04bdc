"""The rules: for each command a function that judges it on its account, and moves it where it is applied.

A rule refuses before it moves anything. ``core.decide`` has asked about the reference before, and has booked
what was due.
"""
