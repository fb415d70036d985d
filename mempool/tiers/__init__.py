"""The media of one instance: where the blocks' bytes are, and which blocks are free."""
