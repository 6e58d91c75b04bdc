"""Monitoring for operators: histograms a batch at a time, alert rules, runbook and dashboard.

The metrics themselves are in ``worker.metrics``.
"""
