"""Routers: functions that say, without labels, which experts fit a task or a token."""
