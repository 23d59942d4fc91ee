"""Routers: functions that say, without labels, which experts fit a task."""
