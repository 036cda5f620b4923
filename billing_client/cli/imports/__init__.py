"""`billing import`: read a file of usage in one of several formats, and record each line once."""
