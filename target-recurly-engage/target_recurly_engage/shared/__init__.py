"""A ledger on shared storage: taken under a lease, used as a local file, returned with a conditional write.

One object, ``current.json``, says all: who holds the ledger, which file is its newest version, and what is being sent.
Whoever changes it says which state of it he has seen (``If-Match``), so of two one is refused.
``docs/shared-ledger.md`` tells how it works and what can go wrong.
"""
