"""The ledger: SQLite, every task's life. One thread writes, several read; a write is durable when it is answered."""
