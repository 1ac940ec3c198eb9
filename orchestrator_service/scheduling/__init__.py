"""What is sent when, to whom, and what it may cost. Decided inside the ledger's own transactions."""
