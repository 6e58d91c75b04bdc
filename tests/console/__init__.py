"""Tests of the console in the browser, and what they share."""
