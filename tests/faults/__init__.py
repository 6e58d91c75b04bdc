"""Tests of what servers, networks and operators do to the worker; ``chaos`` mixes all of it."""
