"""Privacy: a user's rows in one document, their erasure, and the purge of what is old.

What passes the guards of the database is in its functions (migration 0026); nothing here could do it.
"""
