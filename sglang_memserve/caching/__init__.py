"""Context caching across the split: SGLang's radix tree as one instance's view of the MemPool."""
