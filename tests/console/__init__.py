"""Tests of the console in the browser, and their shared parts."""
