"""Tests of faults of servers, networks and operators; ``chaos`` mixes all of them."""
