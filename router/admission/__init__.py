"""What the router takes on at the same time: everything that clients can make it hold has a bound.

Who is over one gets LimitReached at once. Refusals are counted by their reason.
"""
