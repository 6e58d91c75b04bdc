"""Policy of a worker whose broker user is known, so that its dead letters are believed."""

from worker.messages.policy import Policy

#: The broker user of the workers and operators of a test.
OWN_USER = "operator"
OWN_USERS = frozenset({OWN_USER})
OWN_POLICY = Policy(user=OWN_USER, worker_users=OWN_USERS)
