"""Pictures: from files to square uint8 arrays, and random views of them."""
