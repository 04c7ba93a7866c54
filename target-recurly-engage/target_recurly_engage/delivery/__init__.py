"""Ways in which a plan reaches Engage."""
