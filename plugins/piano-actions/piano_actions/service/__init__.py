"""The HTTP service: actions for Engage's API actions."""
