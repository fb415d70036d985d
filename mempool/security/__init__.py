"""Who belongs to the cluster: its key, the keys derived from it, and what is refused without them."""
