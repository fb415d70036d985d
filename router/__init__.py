"""The global scheduler: one HTTP front for prefill, decode and colocated SGLang instances."""
