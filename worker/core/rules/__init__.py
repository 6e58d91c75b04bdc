"""The rules: for each command a function that judges it, and changes the account where it is applied.

A rule refuses before it moves anything. ``core.decide`` has checked the reference before, and has posted
what was due.
"""
