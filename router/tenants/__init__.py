"""Tenants: whose key a request comes with, the KV and names that are its alone, and what it may use."""
