"""The ledger: tables, the store (load · write), the read side, the audit, the migrations."""
