"""Metrics that predict the ratings of listeners, computed by other packages."""
