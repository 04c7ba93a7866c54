"""Recurly Engage: what is told to it, what it keeps of that, and a page to look at it."""
