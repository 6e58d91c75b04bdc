"""HTTP door of the queries: read only, JSON, for those who can't hold a connection to a broker.

Nothing is asked of the ledger here: a request becomes a query, ``worker.queries`` answers it, and the answer
becomes a response. The bridge and the console use its web server, its permits and its view of clients. It
needs the extra ``http`` (Flask, waitress); ``tokens``, ``clients`` and ``permits`` in it need none.
"""
