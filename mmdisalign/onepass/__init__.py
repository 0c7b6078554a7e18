"""Stage 2 in one pass: which images are passed, what is kept of them, and what is fitted to it."""
