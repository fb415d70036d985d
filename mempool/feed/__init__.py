"""An index's events on the network, for mirrors of it such as a router's global prompt tree."""
