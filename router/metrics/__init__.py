"""What a router measures of itself, for Prometheus."""

from router.metrics.page import METRICS, Metrics, scraped_app

__all__ = ["METRICS", "Metrics", "scraped_app"]
