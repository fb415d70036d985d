"""An index's events on the network, for whoever mirrors it: a router's global prompt tree above all."""
