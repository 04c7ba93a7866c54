"""Actions on Piano for prompts of Recurly Engage: as functions, as a command, and told to Engage at once."""
