"""MemServe inside SGLang: the plug-in, its KV transfer backend, the CPU platform and the launchers."""
