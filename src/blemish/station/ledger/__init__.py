"""The ledger: what was claimed, judged, sent and changed; SQLite, or PostgreSQL by URL."""
