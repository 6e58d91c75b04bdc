"""``plan``: the machines that a rate of messages takes, from measured costs."""
