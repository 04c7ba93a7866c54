"""Stand-ins for Piano and Recurly Engage; for now the generator of subscription logs."""
