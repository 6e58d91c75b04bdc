"""The errors of the worker: the type says what to do, the text what happened and what to do next."""


class BillingError(Exception):
    """Any error this project raises on purpose."""


class ConfigurationError(BillingError):
    """A setting, the catalog, the schema or the topology is wrong; a person has to mend it."""


class TransientError(BillingError):
    """Not this message's fault: keep the messages, wait, try again. None becomes a dead letter for it."""


class ContentionError(TransientError):
    """Another worker was faster (deadlock, serialization, a lost claim): try again at once."""


class LedgerUnavailableError(TransientError):
    """The database does not answer or has cut the connection: wait with back-off and probe."""


class BrokerUnavailableError(TransientError):
    """The broker does not answer, has cut the connection or refuses to take a message: connect again."""


class NotFoundError(BillingError):
    """The named thing does not exist; nothing is not the same as zero."""
