"""All public errors: the type says what to do, the text what happened and what to do next.

BillingError                    any error raised on purpose
├── ConfigurationError          a person has to mend something                          exit 2
├── QueryError                  a question that can't be answered as it was asked       exit 2
├── NotFoundError               the named thing does not exist                          exit 4
├── LimitExceededError          a lane's limit is passed                                exit 5
├── UnsupportedStatementError   the database can't run a statement, now or later        exit 6
├── NotPossibleError            a state forbids the action, or somebody was faster      exit 1
│   └── RefusedBodyError        a worker would refuse the body
├── NotKeptError                dead letters can't be stored; they stay in their queue  exit 1
├── BadLineError                a line of an import is no dead letter                   exit 1
├── DemoError                   a process of the demo ended early                       exit 1
├── GiveBackError               held messages go back to the broker; inside the loop only
└── TransientError              nobody's fault: keep the messages, wait, try again      exit 3
    ├── ContentionError         another worker was faster
    ├── LedgerUnavailableError  the database does not answer
    │   └── SchemaChangedError  a statement doesn't fit the schema, or the session's idea of it
    ├── UnusableSchemaError     the schema isn't for this version: pause, and go on when it is
    ├── NoReplyError            no reply came in time
    └── BrokerUnavailableError  the broker does not answer
        └── UnansweredError     the broker has not taken all that must be sent
"""


class BillingError(Exception):
    """Any error this project raises on purpose."""


class ConfigurationError(BillingError):
    """A setting, the catalog, the schema or the topology is wrong; a person has to mend it."""


class UnsupportedStatementError(BillingError):
    """The database can't run a statement of ours, now or later: stop. The text names the statement."""


class TransientError(BillingError):
    """Not this message's fault: keep the messages, wait, try again. None becomes a dead letter for it."""


class ContentionError(TransientError):
    """Another worker was faster (deadlock, serialization, a lost claim): try again at once."""


class LedgerUnavailableError(TransientError):
    """The database does not answer or has cut the connection: wait with back-off and probe."""


class SchemaChangedError(LedgerUnavailableError):
    """A statement doesn't fit the schema: a new session may, or the schema is not as it must be."""


class UnusableSchemaError(TransientError):
    """The schema says that it isn't for this version of the worker: take nothing until it is."""


class BrokerUnavailableError(TransientError):
    """The broker does not answer, has cut the connection or refuses to take a message: connect again."""


class NotFoundError(BillingError):
    """The named thing does not exist; nothing is not the same as zero."""


class UnansweredError(BrokerUnavailableError):
    """The broker has not taken all that must be sent. The deliveries are still held: answer again."""


class NoReplyError(TransientError):
    """No reply came in time. The message may still be applied, now or later."""


class LimitExceededError(BillingError):
    """A lane's limit is passed, and the worker has to exit then (``--on-limit exit``)."""


class QueryError(BillingError):
    """A query that can't be answered as it was asked; the text says what is allowed, ``field`` where."""

    def __init__(self, text: str, field: str | None = None) -> None:
        super().__init__(text)
        self.field = field


class NotPossibleError(BillingError):
    """The state of a dead letter or a replay forbids it, or somebody was faster; the text says which."""


class RefusedBodyError(NotPossibleError):
    """A worker would refuse this body: ``code`` is the reason, ``field`` the place, ``way_out`` says more."""

    def __init__(self, code: str, field: str | None, way_out: str) -> None:
        super().__init__(f"a worker would refuse this body: {way_out}")
        self.code, self.field, self.way_out = code, field, way_out


class NotKeptError(BillingError):
    """Dead letters can't be put into the table; they stay in their queue."""


class BadLineError(BillingError):
    """A line of an import is no dead letter; the lines before it are in, and may come again."""


class GiveBackError(BillingError):
    """Held messages must go back to the broker: a stop came in an outage, or the outage lasts too long."""


class DemoError(BillingError):
    """Early end of a process of the demo; ``log`` has the last lines of its log."""

    def __init__(self, name: str, code: int | None, log: str) -> None:
        super().__init__(f"the {name} ended with {code}")
        self.log = log
