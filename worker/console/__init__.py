"""Console in the browser: pages for operators, made on the server, which work without JavaScript.

Nothing of the ledger is decided here: pages show the ledger's queries and the dead letters, and actions on
dead letters go into the activity log, with actor and reason. An unknown value is shown as unknown.
It needs the extra ``console`` (Flask, Flask-WTF, waitress); nothing else of the worker imports this package.
"""
