"""How right the cost model is: against public tables of an H100, and against an instance here."""
