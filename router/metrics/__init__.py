"""What a router measures of itself, for Prometheus."""

from router.metrics.page import Metrics, scraped_app

__all__ = ["Metrics", "scraped_app"]
