"""Singer tap for Piano."""
