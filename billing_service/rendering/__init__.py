"""Documents for people and spreadsheets, made of what the ledger answers."""
