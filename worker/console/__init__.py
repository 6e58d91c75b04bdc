"""The console in the browser: pages for operators, made on the server, which work without JavaScript.

Nothing of the ledger is decided here: what is shown is asked of the ledger's queries and of the dead-letter
office, what is done is done by the office, which writes who did it and why. What can't be known says so.
It needs the extra ``console`` (Flask, Flask-WTF, waitress); nothing else of the worker imports this package.
"""
