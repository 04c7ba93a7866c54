"""Watching: what a run leaves for monitors (metrics, a status, health), and the alerts where that status changes."""
