"""HTTP door of the queries: read only, JSON, for those who can't hold a connection to a broker.

Nothing is asked of the ledger here: a request becomes a query, ``worker.queries`` answers it, and the answer
becomes a response. It needs the extra ``http`` (Flask, waitress); nothing else of the worker imports this
package, and ``tokens`` in it needs no extra.
"""
