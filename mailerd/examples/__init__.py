"""Files that commands write out for users to start from; no code."""
