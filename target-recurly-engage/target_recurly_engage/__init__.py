"""Singer target for Recurly Engage."""
