-- read_clock: the time at this moment, not at the beginning of the transaction
SELECT clock_timestamp();
